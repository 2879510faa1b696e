"""The train step, its loop, optimizers and checkpoints."""
