"""Conversion of columns and arrays to features."""
