"""Evaluation of a run, and the files of its results."""
