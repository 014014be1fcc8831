"""A model for other programs: formats, writing and loading."""
