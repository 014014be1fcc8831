"""Predict the images of a folder: python predict.py run/model.ckpt photos --output predictions.csv."""

import argparse
import csv
import logging
import sys
import warnings

import lightning.pytorch as L
import torch
from data import Images, find_images
from model import ImageClassifier
from torch.utils.data import DataLoader

from lossselect.exceptions import LossSelectError


def main():
    """Write the prediction and the probabilities of each image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", help="model.ckpt in the output folder of train.py")
    parser.add_argument("images", help="folder of images; subfolders are included")
    parser.add_argument("--output", default="predictions.csv", help="CSV file to write")
    parser.add_argument("--batch-size", type=int, default=64, help="images per batch")
    parser.add_argument("--accelerator", default="auto", help="as in Lightning")
    args = parser.parse_args()

    paths = find_images(args.images)
    model = ImageClassifier.load_from_checkpoint(args.checkpoint, pretrained=False)
    loader = DataLoader(Images(paths, model.hparams["size"]), args.batch_size)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    trainer = L.Trainer(accelerator=args.accelerator, logger=False, enable_checkpointing=False)
    batches = trainer.predict(model, loader)
    probabilities = torch.cat([batch["probabilities"] for batch in batches]).tolist()
    names = model.task.decode(torch.cat([batch["prediction"] for batch in batches]))
    with open(args.output, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "prediction", *(f"p_{name}" for name in model.task.output_names)])
        for path, name, row in zip(paths, names, probabilities, strict=True):
            writer.writerow([path, "|".join(name) if isinstance(name, list) else name, *row])


if __name__ == "__main__":
    try:
        main()
    except LossSelectError as error:
        sys.exit(f"Error: {error}")
