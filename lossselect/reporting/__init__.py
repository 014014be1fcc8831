"""The plan of a run and its report: report.html with figures, in one file that needs nothing else."""
