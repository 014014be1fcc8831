"""What `--help` prints. Hydra's own help would take a second of composing to say less."""

from lossselect.losses.registry import LOSSES
from lossselect.run.settings import list_variants

HELP = """\
Train a classifier. Say what the task is; head, loss, targets, metrics and decoding follow.

  {command} task=binary        yes or no
  {command} task=multiclass    exactly one of several classes
  {command} task=multilabel    any number of labels at once
  {command} task=auto          what the labels look like

On data of your own:

  {command} task=multiclass data=table data.path=train.csv data.target=species
  {command} task=multilabel data=table data.path=train.csv "data.target=[sport,news]"
  {command} task=... check_only=true           look at data and settings, and stop
  {command} task=... loss=auto                 a loss that the train labels call for, and why

Predict with `lossselect predict checkpoint=best.ckpt input=new.csv output=out.csv`.

Choose a variant of a part with PART=NAME:

{groups}

Change any setting with KEY=VALUE:

  loss=focal loss.gamma=1         another loss, and its option
  trainer.max_epochs=10 seed=1    shorter, with other random numbers
  data.batch_size=128 optimizer.lr=3e-4
  hydra.run.dir=runs/first        where the outputs go
  -m task=binary,multilabel       several runs, one after another
  --cfg job task=binary           show all settings of a run, and stop
  --config-dir FOLDER             take variants of your own from a folder as well
  --hydra-help                    what else the command line can do

Outputs: checkpoints/best.ckpt, metrics.json, per_class.csv, predictions.csv, report.html, plan.json,
logs/metrics.csv; of several classes confusion_matrix.csv.
"""


def print_help(command: str) -> None:
    """Print how `command` is used, with the variants that there are of each part."""
    lines = []
    for group in dict.fromkeys(("task", "loss", "data", "model", "optimizer", *list_variants())):
        names = ["auto", *LOSSES] if group == "loss" else list_variants(group)
        lines += [f"  {group:11}{', '.join(names)}"] if names else []
    print(HELP.format(command=command, groups="\n".join(lines)))
