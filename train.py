"""Train a classifier: `python train.py task=multilabel` is the same as the command lossselect-train."""

from lossselect.cli.train import main

if __name__ == "__main__":
    main()
