"""Trainers that print and write nothing, on one CPU."""

import lightning.pytorch as L


def quiet_trainer(**options):
    usual = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    return L.Trainer(**{"accelerator": "cpu", "devices": 1, **usual, **options})
