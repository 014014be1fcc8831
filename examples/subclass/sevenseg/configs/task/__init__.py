"""The tasks of this project."""
