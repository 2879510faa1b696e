"""Model files to sharded parameters."""
