"""Handwritten digits onto a seven-segment display."""
