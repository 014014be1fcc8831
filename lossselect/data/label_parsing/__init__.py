"""Label columns and label arrays of a file as a task, classes and indices."""
