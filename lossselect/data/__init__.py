"""Data for training: from files and from toy sets to splits, features, labels and batches."""
