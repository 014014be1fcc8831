"""The metrics of a task: registry, collection, and what they are computed from."""
