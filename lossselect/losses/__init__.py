"""Losses: registry, `Loss`, class weights, and `loss=auto`."""
