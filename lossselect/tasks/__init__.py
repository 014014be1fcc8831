"""The tasks, and what follows from each."""
