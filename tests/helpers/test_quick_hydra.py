"""Configs that are composed quickly equal those that Hydra composes."""

from new_process import run_program
from paths import ROOT

PROGRAM = """
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from quick_hydra import compose_quickly

CASES = [
    ["task=binary"],
    ["task=binary", "model=linear", "optimizer.lr=3"],
    ["task=multilabel", "model=linear", "optimizer.lr=4", "+mine=1"],
    ["task=multilabel", "experiment=yeast_focal", "hydra.job.num=3"],
    ["experiment=yeast_focal", "task=binary", "~callbacks", "hydra/job_logging=none"],
    ["hydra.searchpath=[file://configs]", "task=binary", "optimizer=mine", "model=linear"],
]

def compose_all():
    configs = []
    for words in CASES:
        with initialize_config_module("lossselect.configs", version_base="1.3"):
            config = compose("train", words, return_hydra_config=True)
        configs.append(OmegaConf.to_yaml(config))
        OmegaConf.update(config, "task.changed", 1, force_add=True)  # must not reach later configs
    return configs

usual = compose_all()
compose_quickly()
assert all(compose_all() == usual for _ in range(3))
"""


def test_configs_are_those_of_hydra(tmp_path):
    mine = tmp_path / "configs" / "optimizer" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("name: SGD\nlr: 7\n")
    done = run_program(["-c", PROGRAM], tmp_path, PYTHONPATH=str(ROOT / "tests" / "helpers"))
    assert done.returncode == 0, done.stderr
