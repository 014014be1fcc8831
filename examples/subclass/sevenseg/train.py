"""Train and test with configs/train.yaml: `sevenseg-train` or `python -m sevenseg.train`."""

import logging
import warnings
from pathlib import Path

import hydra
import lightning.pytorch as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

import lossselect as ls

from .data import Digits
from .model import DigitNet


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config):
    """Train, tune and test; return the metric that a sweeper maximises."""
    settings = OmegaConf.to_container(config, resolve=True)  # plain values can be saved in a checkpoint
    L.seed_everything(settings["seed"], workers=True, verbose=False)
    data = Digits(settings["task"]["name"], **settings["data"])
    task = ls.make_task(**settings["task"], class_names=data.class_names)
    model = DigitNet(
        task,
        **settings["net"],
        loss=settings["loss"],
        optimizer=settings["optimizer"],
        scheduler=settings["scheduler"],
        bias_init="prior",
    )
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # no advertisements
    warnings.filterwarnings("ignore", module="lightning")  # for example about loaders without workers
    trainer = L.Trainer(
        **settings["trainer"],
        logger=False,
        enable_checkpointing=False,  # saved below, after the thresholds are tuned
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    val = ls.tune_decision(trainer, model, datamodule=data, **settings["decision"])
    checkpoint = Path(HydraConfig.get().runtime.output_dir, "digits.ckpt")
    trainer.save_checkpoint(checkpoint)
    test = trainer.test(model, data, verbose=False)[0]
    for name in ("test/accuracy", "test/f1_macro"):
        print(f"{name} {test[name]:.3f}")

    # prediction requires only the checkpoint
    model = DigitNet.load_from_checkpoint(checkpoint).eval()
    with torch.inference_mode():
        predictions = model.task.decode(model.task.predict(model(data.test_rows.tensors[0][:3])))
    print("The first test images:", *predictions, sep="\n  ")
    return val["val/f1_macro"]


if __name__ == "__main__":
    main()
