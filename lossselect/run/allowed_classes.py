"""The classes that `_target_` in a config may name, by position in the config; trust.py checks them.

Anything else is rejected. A new class of torch or Lightning is rejected until somebody has reviewed it and
added it here and in tests/run/allowed_classes.json. A review looks for arguments that are loaded, unpickled,
imported, evaluated or executed. This module imports neither torch nor Lightning.
"""

import re
from functools import cache
from importlib import import_module
from typing import NamedTuple


def _names(module: str, names: str) -> frozenset[str]:
    """Return the full names of `names`, with "#" replaced by 1, 2 and 3."""
    return frozenset(f"{module}.{name.replace('#', digit)}" for name in names.split() for digit in "123")


MODULES = _names(
    "torch.nn",
    """
    AdaptiveAvgPool#d AdaptiveMaxPool#d AvgPool#d FractionalMaxPool2d FractionalMaxPool3d LPPool#d
    MaxPool#d MaxUnpool#d
    Conv#d ConvTranspose#d Fold Unfold LazyConv#d LazyConvTranspose#d
    Bilinear Embedding EmbeddingBag Identity LazyLinear Linear
    BatchNorm#d CrossMapLRN2d GroupNorm LayerNorm LocalResponseNorm RMSNorm SyncBatchNorm
    InstanceNorm#d LazyBatchNorm#d LazyInstanceNorm#d
    AlphaDropout Dropout Dropout#d FeatureAlphaDropout
    CELU ELU GELU GLU Hardshrink Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid LogSoftmax Mish
    PReLU RReLU ReLU ReLU6 SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh
    Tanhshrink Threshold
    CircularPad#d ConstantPad#d ReflectionPad#d ReplicationPad#d ZeroPad#d
    ChannelShuffle Flatten PixelShuffle PixelUnshuffle Unflatten Upsample UpsamplingBilinear2d
    UpsamplingNearest2d
    GRU GRUCell LSTM LSTMCell RNN RNNCell MultiheadAttention Transformer TransformerDecoder
    TransformerDecoderLayer TransformerEncoder TransformerEncoderLayer CosineSimilarity PairwiseDistance
    ModuleDict ModuleList ParameterDict ParameterList Sequential
    """,
)
"""Left out: base classes, DataParallel, and a loss that needs a function as an argument."""

OPTIMIZERS = _names(
    "torch.optim",
    "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax LBFGS Muon NAdam RAdam RMSprop Rprop SGD SparseAdam",
)

SCHEDULERS = _names(
    "torch.optim.lr_scheduler",
    """
    ConstantLR CosineAnnealingLR CosineAnnealingWarmRestarts CyclicLR ExponentialLR LinearLR MultiStepLR
    OneCycleLR PolynomialLR ReduceLROnPlateau StepLR
    """,
)
"""Left out: schedulers with functions or schedulers as arguments, which a config cannot pass."""

CALLBACKS = _names(
    "lightning.pytorch.callbacks",
    """
    BackboneFinetuning BatchSizeFinder DeviceStatsMonitor EMAWeightAveraging EarlyStopping
    GradientAccumulationScheduler LearningRateFinder LearningRateMonitor ModelCheckpoint ModelPruning
    ModelSummary OnExceptionCheckpoint RichModelSummary RichProgressBar SpikeDetection
    StochasticWeightAveraging TQDMProgressBar Timer WeightAveraging
    """,
) | {
    "lossselect.CheckpointOnSignal",
    "lossselect.StepsPerExecution",
    "lossselect.training.callbacks.progress.ProgressBar",
    "lossselect.training.callbacks.progress.ProgressLines",
}
"""Left out: base classes, and callbacks with functions as arguments."""

LOGGERS = _names(
    "lightning.pytorch.loggers", "CSVLogger CometLogger MLFlowLogger TensorBoardLogger WandbLogger"
)

METRICS = _names(
    "torchmetrics.classification",
    """
    BinaryAUROC BinaryAccuracy BinaryAveragePrecision BinaryCalibrationError BinaryCohenKappa BinaryF1Score
    BinaryFBetaScore BinaryHammingDistance BinaryHingeLoss BinaryJaccardIndex BinaryMatthewsCorrCoef
    BinaryNegativePredictiveValue BinaryPrecision BinaryRecall BinarySpecificity
    MulticlassAUROC MulticlassAccuracy MulticlassAveragePrecision MulticlassCalibrationError
    MulticlassCohenKappa MulticlassExactMatch MulticlassF1Score MulticlassFBetaScore
    MulticlassHammingDistance MulticlassHingeLoss MulticlassJaccardIndex MulticlassMatthewsCorrCoef
    MulticlassNegativePredictiveValue MulticlassPrecision MulticlassRecall MulticlassSpecificity
    MultilabelAUROC MultilabelAccuracy MultilabelAveragePrecision MultilabelCoverageError
    MultilabelExactMatch MultilabelF1Score MultilabelFBetaScore MultilabelHammingDistance
    MultilabelJaccardIndex MultilabelMatthewsCorrCoef MultilabelNegativePredictiveValue
    MultilabelPrecision MultilabelRankingAveragePrecision MultilabelRankingLoss MultilabelRecall
    MultilabelSpecificity
    """,
)
"""Left out: metrics that compute curves and matrices."""

LAUNCHERS = (
    _names("hydra._internal.core_plugins.basic_launcher", "BasicLauncher")
    | _names("hydra_plugins.hydra_joblib_launcher.joblib_launcher", "JoblibLauncher")
    | _names("hydra_plugins.hydra_submitit_launcher.submitit_launcher", "LocalLauncher SlurmLauncher")
)

SWEEPERS = _names("hydra._internal.core_plugins.basic_sweeper", "BasicSweeper") | _names(
    "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper", "OptunaSweeper"
)

DATA = frozenset({"lossselect.data.litdata.LitData"})

HYDRA_CALLBACKS = _names("hydra.experimental.callbacks", "LogJobReturnCallback PickleJobInfoCallback") | {
    "lossselect.cli.precheck.CheckBeforeRun"
}


class Position(NamedTuple):
    """A part of a config in which classes may be named."""

    pattern: str  # a regular expression of the positions of the mappings that contain the `_target_`
    what: str
    classes: frozenset[str]


POSITIONS = (
    Position(r"model([.\[].*)?|module[.\[].*", "layers and losses of torch.nn", MODULES),
    Position(r"data", "data modules of lossselect", DATA),
    Position(r"optimizer", "optimizers of torch.optim", OPTIMIZERS),
    Position(r"scheduler", "schedulers of torch.optim.lr_scheduler", SCHEDULERS),
    Position(r"callbacks\.[^.\[]+", "callbacks of Lightning and lossselect", CALLBACKS),
    Position(r"metrics(\[\d+\])?(\.[^.\[]+)?", "metrics of torchmetrics.classification", METRICS),
    Position(r"logger(\.[^.\[]+)?", "loggers of Lightning", LOGGERS),
    Position(r"hydra\.launcher", "launchers of Hydra", LAUNCHERS),
    Position(r"hydra\.sweeper", "sweepers of Hydra", SWEEPERS),
    Position(r"hydra\.callbacks\.[^.\[]+", "callbacks of Hydra", HYDRA_CALLBACKS),
)
"""Everywhere else (`loss`, `trainer`, arguments of optimizers and callbacks) no class is allowed."""

ANYWHERE = Position(
    "", ", ".join(p.what for p in POSITIONS), frozenset().union(*(p.classes for p in POSITIONS))
)

DENIED_ARGUMENTS = {
    # commands and other options of sbatch and srun; the last two exist in newer versions of submitit
    "SlurmLauncher": ("setup", "teardown", "srun_args", "additional_parameters"),
    "OptunaSweeper": ("custom_search_space",),  # a function, which is called
    "WandbLogger": ("settings",),  # can name a program that W&B starts
}
"""Arguments of allowed classes that run a command or call a function that the config names."""


def find_position(place: str) -> Position | None:
    """Return the position of the mapping at `place`, such as "model.net[0]", or None."""
    return next((p for p in POSITIONS if re.fullmatch(p.pattern, place, flags=re.DOTALL)), None)


def public_name(target: str, classes: frozenset[str] = ANYWHERE.classes) -> str | None:
    """Return the entry of `classes` that `target` names, or None.

    A class may also be named by its defining module (torch.nn.modules.linear.Linear), as tools that write
    configs do. Only modules of the entries are imported for this check.
    """
    if target in classes:
        return target
    cls_name = target.rpartition(".")[2]
    for module in _modules_by_class(classes).get(cls_name, ()):
        if target.partition(".")[0] == module.partition(".")[0]:
            cls = getattr(import_module(module), cls_name, None)
            if isinstance(cls, type) and f"{cls.__module__}.{cls.__qualname__}" == target:
                return f"{module}.{cls_name}"
    return None


@cache
def _modules_by_class(classes: frozenset[str]) -> dict[str, list[str]]:
    modules: dict[str, list[str]] = {}
    for name in sorted(classes):
        module, _, cls_name = name.rpartition(".")
        modules.setdefault(cls_name, []).append(module)
    return modules
