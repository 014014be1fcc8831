"""Comparison of runs: of the jobs of a sweep, and of any run folders."""
