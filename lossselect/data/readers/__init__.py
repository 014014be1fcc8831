"""Readers of tables and arrays from files."""
