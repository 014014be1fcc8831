"""Fine-tune a text model: python train.py --task multiclass --data train.csv --model FOLDER.

The task is declared once. The number of outputs, the loss, the target, the metrics and the decision follow
from it. Batches are what the tokenizer returns, with labels.
"""

import argparse
import json
import logging
import math
import sys
import warnings
from functools import partial
from pathlib import Path

import lightning.pytorch as L
from data import make_loader, read_texts, split
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.optim import AdamW
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

import lossselect as ls
from lossselect.exceptions import DataError, LossSelectError


def make_task(name, labels):
    """Return the task for the labels of all training texts."""
    known = [label if isinstance(label, list) else [label] for label in labels if label is not None]
    names = sorted({name for labels in known for name in labels})
    if len(names) < 2:
        raise DataError(f"The texts must have at least two different labels, got only {names}.")
    return ls.make_task(name, class_names=names)


def make_optimizer(named_parameters, lr, layer_decay):
    """Return AdamW with smaller learning rates for lower layers, and no weight decay for biases and norms."""
    layers = {}
    for name, parameter in named_parameters:
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        layer = numbers[0] + 1 if numbers else 0 if "embeddings" in name else math.inf  # the head is the last
        layers.setdefault(layer, []).append(parameter)
    groups = []
    for depth, layer in enumerate(sorted(layers, reverse=True)):
        options = {"lr": lr * layer_decay**depth}
        matrices = [parameter for parameter in layers[layer] if parameter.ndim > 1]
        vectors = [parameter for parameter in layers[layer] if parameter.ndim == 1]
        groups += [{"params": matrices, **options}, {"params": vectors, "weight_decay": 0.0, **options}]
    return AdamW(groups)


def parse_arguments(arguments=None):
    """Return the settings in the arguments of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--task", choices=[*ls.TASKS], required=True, help="what a text has")
    add("--data", required=True, help="CSV file with the columns text and label")
    add("--model", required=True, help="local folder of a model and its tokenizer, or a name on the hub")
    add("--output", default="run", type=Path, help="folder for the model, the metrics and the log")
    add("--loss", default="cross_entropy", help=", ".join(sorted(ls.LOSSES)))
    add("--decision", default="auto", help="metric to tune the decision for, such as f1_macro")
    add("--epochs", type=int, default=3, help="number of epochs")
    add("--batch-size", type=int, default=16, help="texts per step")
    add("--lr", type=float, default=5e-5, help="learning rate of the head")
    add(
        "--layer-decay",
        type=float,
        default=0.9,
        help="factor of the learning rate from a layer to the one below",
    )
    add("--warmup", type=float, default=0.1, help="fraction of the steps in which the learning rate rises")
    add("--seed", type=int, default=0, help="seed of everything random")
    add("--accelerator", default="auto", help="as in Lightning")
    return parser.parse_args(arguments)


def train(args):
    """Train, tune the decision on validation texts, test, and write the model."""
    L.seed_everything(args.seed, verbose=False)
    texts, labels = read_texts(args.data, args.task == "multilabel")
    task = make_task(args.task, labels)
    target = task.encode(labels)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    train_rows, val_rows, test_rows = split(task, target, args.seed)
    loaders = {
        name: make_loader(
            tokenizer,
            [texts[row] for row in rows],
            target[rows],
            batch_size=args.batch_size,
            shuffle=name == "train",
        )
        for name, rows in (("train", train_rows), ("val", val_rows), ("test", test_rows))
    }
    net = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=task.num_outputs, ignore_mismatched_sizes=True
    )
    steps = args.epochs * len(loaders["train"])

    def scheduler(optimizer):
        schedule = get_linear_schedule_with_warmup(optimizer, int(args.warmup * steps), steps)
        return {"scheduler": schedule, "interval": "step"}

    model = ls.TaskModule(
        task,
        net=net,
        loss=args.loss,
        optimizer=partial(make_optimizer, lr=args.lr, layer_decay=args.layer_decay),
        scheduler=scheduler,
        bias_init="prior",
    )
    model.set_label_counts(ls.count_labels(task, target[train_rows]))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    trainer = L.Trainer(
        accelerator=args.accelerator,
        max_epochs=args.epochs,
        callbacks=[ModelCheckpoint(args.output / "checkpoints", monitor="val/loss", mode="min")],
        gradient_clip_val=1.0,
        logger=CSVLogger(args.output, name=None, version="logs"),
    )
    trainer.fit(model, loaders["train"], loaders["val"])
    ls.tune_decision(trainer, model, loaders["val"], ckpt_path="best", metric=args.decision)
    result = trainer.test(model, loaders["test"], verbose=False)[0]
    trainer.save_checkpoint(args.output / "model.ckpt", weights_only=True)
    net.config.save_pretrained(args.output / "model")  # predict.py builds the net from it
    tokenizer.save_pretrained(args.output / "model")
    (args.output / "metrics.json").write_text(json.dumps(result, indent=2))
    print("\n".join(f"{name} {value:.3f}" for name, value in result.items()))


if __name__ == "__main__":
    try:
        train(parse_arguments())
    except (LossSelectError, OSError) as error:  # transformers raises OSError for a missing model
        sys.exit(f"Error: {error}")
