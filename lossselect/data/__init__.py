"""Data for training: the toy sets, stratified splits, batches of whole tensors."""
