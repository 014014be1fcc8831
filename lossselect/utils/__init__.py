"""Helpers that are independent of tasks; only devices.py and distributed.py import torch."""
