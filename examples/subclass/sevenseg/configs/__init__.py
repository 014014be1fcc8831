"""The Hydra config of `sevenseg.train`."""
