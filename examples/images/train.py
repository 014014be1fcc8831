"""Train an image classifier: python train.py --task multiclass --data photos.

The task is declared once. The width of the last layer, the loss, the target, the metrics, the decision and
the exported file follow from it.
"""

import argparse
import json
import logging
import os
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import lightning.pytorch as L
import torch
from data import Images, read_labels, split
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from model import AUGMENTATIONS, ImageClassifier
from torch.utils.data import DataLoader

import lossselect as ls
from lossselect.exceptions import DataError, LossSelectError


def parse_arguments(arguments=None):
    """Return the settings in the arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=[*ls.TASKS], required=True, help="what an image has")
    add("--data", required=True, help="folder with one subfolder per class, or CSV file with path,label")
    add("--val", help="the same for validation; by default 15 %% of the images of --data")
    add("--test", help="the same for the final test; by default 15 %% of the images of --data")
    add("--positive", help="the positive class of a binary task; by default the last one")
    add("--output", default="run", type=Path, help="folder for the model, the metrics and the log")
    add("--backbone", default="cnn", help="cnn, timm:NAME or transformers:NAME (or a local folder)")
    add("--random-weights", action="store_true", help="start a backbone from random weights")
    add("--frozen-epochs", type=int, default=0, help="epochs in which only the last layer is trained")
    add("--size", type=int, default=64, help="height and width of the images for the net")
    found = [name for name in ("kornia", "torchvision") if find_spec(name)]
    add("--augmentation", choices=[*AUGMENTATIONS], default=[*found, "torch"][0], help="on the device")
    add("--loss", default="cross_entropy", help=", ".join(sorted(ls.LOSSES)))
    add("--decision", default="auto", help="metric to tune the decision for, such as f1_macro")
    add("--epochs", type=int, default=20, help="number of epochs")
    add("--batch-size", type=int, default=32, help="images per step")
    add("--lr", type=float, default=1e-3, help="learning rate of AdamW")
    add("--workers", type=int, default=min(8, os.cpu_count() or 1), help="processes that read images")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--accelerator", default="auto", help="as in Lightning")
    add(
        "--export",
        metavar="SUFFIX",
        choices=["onnx", "pt2"],
        help="also write a file that runs without this code",
    )
    return parser.parse_args(arguments)


def make_task(name, labels, positive):
    """Return the task for all labels of the training images."""
    lists = [label if isinstance(label, list) else [label] for label in labels if label is not None]
    names = sorted({name for labels in lists for name in labels})
    if len(names) < 2:
        raise DataError(f"The images must have at least two different labels, got only {names}.")
    if positive is not None and positive not in names:
        raise DataError(f"--positive={positive} is not among the labels {names}.")
    return ls.make_task(name, class_names=sorted(names, key=lambda name: name == positive))


def read_splits(args):
    """Return the task, and a data set of images for "train", "val" and "test"."""
    several = args.task == "multilabel"
    data = {"train": read_labels(args.data, several)}
    task = make_task(args.task, data["train"][1], args.positive)
    for name, source, fraction in (("test", args.test, 0.15), ("val", args.val, 0.15 / 0.85)):
        if source is not None:
            data[name] = read_labels(source, several)
            continue
        paths, labels = data["train"]
        for part, rows in zip(("train", name), split(task, labels, fraction, args.seed), strict=True):
            data[part] = [paths[row] for row in rows], [labels[row] for row in rows]
    splits = {}
    for name, (paths, labels) in data.items():
        try:
            splits[name] = Images(paths, args.size, task.encode(labels))
        except LossSelectError as error:
            raise error.add(f"This is about the {name} images.") from None
    return task, splits


def train(args):
    """Train, tune the decision on validation images, test, and write the model."""
    L.seed_everything(args.seed, workers=True, verbose=False)
    task, splits = read_splits(args)
    print(f"{task}: {', '.join(task.names)}; " + ", ".join(f"{len(s)} {name}" for name, s in splits.items()))
    loaders = {
        name: DataLoader(
            images,
            args.batch_size,
            shuffle=name == "train",
            num_workers=args.workers,
            persistent_workers=args.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
        for name, images in splits.items()
    }
    model = ImageClassifier(
        task,
        backbone=args.backbone,
        pretrained=not args.random_weights,
        size=args.size,
        augmentation=args.augmentation,
        loss=args.loss,
        optimizer={"name": "AdamW", "lr": args.lr},
        bias_init="prior",
    )
    model.set_label_counts(
        ls.count_labels(task, splits["train"].target)
    )  # else fit reads all images to count
    callbacks = [ModelCheckpoint(args.output / "checkpoints", monitor="val/loss", mode="min")]
    if args.frozen_epochs:
        callbacks.append(BackboneFinetuning(unfreeze_backbone_at_epoch=args.frozen_epochs))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    trainer = L.Trainer(
        accelerator=args.accelerator,
        max_epochs=args.epochs,
        callbacks=callbacks,
        logger=CSVLogger(args.output, name=None, version="logs"),
    )
    trainer.fit(model, loaders["train"], loaders["val"])
    ls.tune_decision(trainer, model, loaders["val"], ckpt_path="best", metric=args.decision)
    result = trainer.test(model, loaders["test"], verbose=False)[0]
    trainer.save_checkpoint(args.output / "model.ckpt", weights_only=True)
    (args.output / "metrics.json").write_text(json.dumps(result, indent=2))
    print("\n".join(f"{name} {value:.3f}" for name, value in result.items()))
    if args.export:
        images = next(iter(loaders["test"]))["image"] / 255
        ls.export_model(model, args.output / f"model.{args.export}", inputs=images)


if __name__ == "__main__":
    try:
        train(parse_arguments())
    except LossSelectError as error:
        sys.exit(f"Error: {str(error).splitlines()[-1]}")  # before it, an error of a worker has its traceback
