"""Checkpoints: content, validation, loading, and resuming a run exactly."""
