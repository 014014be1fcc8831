"""Files as tables and arrays."""
