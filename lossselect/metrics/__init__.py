"""Metrics of a task: registry, collection, and the statistics that they are computed from."""
