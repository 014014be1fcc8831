"""The formulas of the losses, one module for each kind. torch is imported when a formula is called."""
