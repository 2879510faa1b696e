"""What a prompt scores: the forward pass, and evaluation."""
