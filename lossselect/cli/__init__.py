"""The command line: one module for each command, error messages and help."""
