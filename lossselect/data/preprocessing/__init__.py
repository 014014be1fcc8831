"""Columns and arrays of a file as features."""
