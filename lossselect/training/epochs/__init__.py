"""Accumulation of loss and metrics over an epoch, of one task or of several."""
