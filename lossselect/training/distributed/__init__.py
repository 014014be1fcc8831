"""Several processes, with the numbers of one."""
