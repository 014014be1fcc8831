"""Helpers without knowledge of tasks; only devices.py and distributed.py import torch."""
