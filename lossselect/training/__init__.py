"""`TaskModule`, and what surrounds it during training."""
