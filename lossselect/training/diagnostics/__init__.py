"""Checks of outputs, losses and gradients during training."""
