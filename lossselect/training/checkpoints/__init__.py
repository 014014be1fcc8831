"""Checkpoints: content, validation, loading, and exact resuming of runs."""
