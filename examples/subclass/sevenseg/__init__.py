"""Handwritten digits for a seven-segment display."""
