"""Helpers without knowledge of tasks: option checks, warnings, files, terminal. Imports no torch."""
