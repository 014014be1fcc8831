"""Layouts of published data sets: generated files, natural commands, and checks of what is read."""
