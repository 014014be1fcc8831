"""Export of models for other programs: formats, writing and loading."""
