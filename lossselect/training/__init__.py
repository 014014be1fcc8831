"""Training: `TaskModule`, its optimizers and callbacks, checkpoints and diagnostics."""
