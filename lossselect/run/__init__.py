"""A run from its config: settings, validation, building, dry run and results."""
