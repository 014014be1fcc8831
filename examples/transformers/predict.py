"""Predict the texts of a CSV file: python predict.py run new.csv --output predictions.csv."""

import argparse
import csv
import logging
import sys
import warnings
from pathlib import Path

import lightning.pytorch as L
import torch
from data import make_loader, read_columns
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import lossselect as ls
from lossselect.exceptions import LossSelectError


def main():
    """Write the prediction and the probabilities of each text."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="output folder of train.py")
    parser.add_argument("texts", help="CSV file with the column text")
    parser.add_argument("--output", default="predictions.csv", help="CSV file to write")
    parser.add_argument("--batch-size", type=int, default=64, help="texts per batch")
    parser.add_argument("--accelerator", default="auto", help="as in Lightning")
    args = parser.parse_args()

    (texts,) = read_columns(args.texts, ["text"])
    config = AutoConfig.from_pretrained(args.run / "model")
    net = AutoModelForSequenceClassification.from_config(config)
    model = ls.TaskModule.load_from_checkpoint(args.run / "model.ckpt", net=net)
    loader = make_loader(AutoTokenizer.from_pretrained(args.run / "model"), texts, batch_size=args.batch_size)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    trainer = L.Trainer(accelerator=args.accelerator, logger=False, enable_checkpointing=False)
    batches = trainer.predict(model, loader)
    probabilities = torch.cat([batch["probabilities"] for batch in batches]).tolist()
    names = model.task.decode(torch.cat([batch["prediction"] for batch in batches]))
    with open(args.output, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "prediction", *(f"p_{name}" for name in model.task.output_names)])
        for text, name, row in zip(texts, names, probabilities, strict=True):
            writer.writerow([text, "|".join(name) if isinstance(name, list) else name, *row])


if __name__ == "__main__":
    try:
        main()
    except (LossSelectError, OSError) as error:  # transformers raises OSError for a missing model
        sys.exit(f"Error: {error}")
