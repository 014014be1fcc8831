"""Formulas of the losses, one module for each loss. torch is imported when a formula is called.

A sigmoid form takes logits (N, L, ...) and a target y in [0, 1] of the same shape, and returns the loss of
each element, (N, L, ...). A softmax form takes logits (N, C, ...) and class indices (N, ...) or soft labels
t (N, C, ...), and returns the loss of each sample, (N, ...). Losses are in nats. A formula raises ConfigError
for an option outside its stated range.
"""
