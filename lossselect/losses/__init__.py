"""The losses: registry, `Loss`, class weights, and `loss=auto`."""
