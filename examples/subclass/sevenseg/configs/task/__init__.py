"""The tasks that this project has data for."""
