"""Thresholds, temperature and prior correction, fitted to validation rows."""
