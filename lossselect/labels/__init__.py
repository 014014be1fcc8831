"""Label values, vocabularies, sparse labels, and targets as tensors."""
