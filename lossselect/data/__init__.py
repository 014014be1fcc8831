"""Data for training: splits, features, labels and batches from files and from the built-in data sets."""
