"""Training and evaluation over several processes, with the same results as one process."""
