"""Runs that train several times: on folds, or with several seeds."""
