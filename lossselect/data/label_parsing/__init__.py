"""Conversion of a file's label columns and label arrays to a task, its classes and their indices."""
