"""model=auto: the nets that are trained together, chosen by the size and the columns of a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lossselect.exceptions import ConfigError, OptionTypeError
from lossselect.models.nets import SINGLE_NETS, net_options
from lossselect.utils.checks import check_options, first_duplicate, lookup, split_name

MAX_SAMPLED_VALUES = 5_000_000
"""Maximum number of values from which the kinds of the columns are recognised."""
MAX_ENCODED = 400
"""Maximum number of columns of numbers for which a net with an encoding is trained."""
MAX_FEATURES, MAX_OUTPUTS = 4000, 200
"""Maximum number of features of TabM, and of outputs for which several nets are trained."""
SELECTED, MIN_WIDE = 128, 200
"""Number of features of a net with selected features, and of features from which it is trained."""
MAX_DEEP = 400
"""Maximum number of features of `mlp_deep`."""
MAX_SCORED_ROWS, BLOCK_VALUES = 100_000, 1 << 22
"""Maximum number of rows from which features are selected, and of their values that are read at once."""

EPOCHS, MAX_EPOCHS, MIN_STEPS = 50, 200, 500
"""Default number of epochs, its maximum in small tables, and the minimum number of steps there."""


class Candidate(NamedTuple):
    """A net that `model=auto` can train.

    Args:
        options: Its name and options.
        suits: Whether it suits a table with (num_features, num_numbers); see `choose_nets`.
        encodes: Whether it needs the option `columns`, the columns of numbers.
        selects: Whether it needs the option `features`, the features that correlate most with a label.
    """

    options: Mapping[str, Any]
    suits: Callable[[int, int], bool]
    encodes: bool = False
    selects: bool = False


CANDIDATES = {
    "mlp": Candidate({"name": "mlp"}, lambda features, numbers: True),
    "mlp_deep": Candidate(
        {"name": "mlp", "hidden": [256, 256], "dropout": 0.2, "input_dropout": 0.0},
        lambda features, numbers: features <= MAX_DEEP,
    ),
    "tabm": Candidate({"name": "tabm"}, lambda features, numbers: features <= MAX_FEATURES),
    "tabm_ple": Candidate(
        # four members, because the encoded features make the first layer slow
        {"name": "tabm", "encoding": "ple", "num_members": 4},
        lambda features, numbers: features <= MAX_FEATURES and 0 < numbers <= MAX_ENCODED,
        encodes=True,
    ),
    "tabm_selected": Candidate(
        {"name": "tabm"}, lambda features, numbers: features >= MIN_WIDE, selects=True
    ),
}
"""The nets that `model=auto` can train."""
SINGLE = "mlp"
"""The net that is trained if there can be only one."""


def choose_nets(num_features: int, num_outputs: int, num_numbers: int) -> tuple[list[str], str]:
    """Return the names of the nets for a table, and the reason.

    `num_numbers` is the number of columns of numbers (see `find_number_columns`).
    """
    if num_outputs > MAX_OUTPUTS:
        return [SINGLE], f"a single net for more than {MAX_OUTPUTS} outputs"
    names = [name for name, net in CANDIDATES.items() if net.suits(num_features, num_numbers)]
    return names, f"{num_features} features, of which {num_numbers} have more than two values"


def default_epochs(net: Any, splits: Any, batch_size: Any) -> int:
    """Return the number of epochs for a net: 50, but up to 200 in small tables, for at least 500 steps.

    A net other than the built-in ones is trained for 50.

    Args:
        net: The spec of a built-in net, or any other net.
        splits: The `Splits` of rows in memory; None for the user's own data.
        batch_size: The number of rows of a step.
    """
    if splits is None or not isinstance(net, Mapping):
        return EPOCHS
    steps = -(-len(splits.rows["train"]) // batch_size)
    return max(EPOCHS, min(MAX_EPOCHS, -(-MIN_STEPS // steps)))


def find_number_columns(features: Any, rows: Any) -> list[int]:
    """Return the indices of features that have more than two values in a sample of the training rows.

    Others, such as one-hot categories, would not profit from an encoding.
    """
    size = max(1, MAX_SAMPLED_VALUES // features.shape[1])
    values = features[rows[:: -(-len(rows) // size)]]
    between = (values != values.amin(0)) & (values != values.amax(0))
    return [int(column) for column in between.any(0).nonzero()]


def select_features(features: Any, rows: Any, task: Any, labels: Any, count: int) -> list[int]:
    """Return the indices of the `count` features with the highest correlation with an output.

    The score of a feature is the highest square of its correlations with the outputs, over training rows.

    Args:
        features: The features (N, F), which are read in blocks of rows.
        rows: The indices of the training rows.
        task: The task that encodes the labels.
        labels: The labels of all rows.
        count: The number of features to select.
    """
    import torch

    from lossselect.labels.sparse_labels import SparseLabels

    rows = torch.as_tensor(rows)[:: -(-len(rows) // MAX_SCORED_ROWS)]
    is_sparse = isinstance(labels, SparseLabels)
    target = labels.select(rows).to_dense() if is_sparse else task.encode_tensor(labels[rows], 0)
    y = task.to_one_hot(target).double()  # NaN where missing
    y = (y - y.nanmean(0)).nan_to_num(0)
    products, sums, squares = (torch.zeros(1, dtype=torch.double) for _ in range(3))
    size = max(1, BLOCK_VALUES // features.shape[1])
    for part, block in zip(rows.split(size), y.split(size), strict=True):
        x = features[part].double()
        products, sums, squares = products + x.T @ block, sums + x.sum(0), squares + x.square().sum(0)
    variance = squares - sums.square() / len(rows)
    scores = products.square().div(y.square().sum(0).clamp(min=1e-12)).amax(1) / variance.clamp(min=1e-12)
    return sorted(scores.topk(min(count, len(scores))).indices.tolist())


def check_spec(spec: Mapping[str, Any]) -> None:
    """Check the name and the options of a net that a user can choose, such as "auto"."""
    lookup(dict.fromkeys(("auto", *SINGLE_NETS)), split_name(spec, "net")[0], "net")
    if spec.get("name") != "auto":
        net_options(spec)
        return
    options = {key: value for key, value in spec.items() if key != "name"}
    try:
        check_options(options, ["nets"], "Net 'auto'")
    except ConfigError as error:
        raise ConfigError(f"{error} To set options of a net, choose it, such as mlp.") from None
    nets = options.get("nets")
    if nets is not None and (isinstance(nets, str) or not isinstance(nets, Sequence) or not nets):
        raise OptionTypeError(f"nets must be a list of {', '.join(CANDIDATES)}, or null, got {nets!r}.")
    for name in nets or ():
        if name not in CANDIDATES and name in SINGLE_NETS:
            raise ConfigError(f"{name} cannot be one of several nets. To train it alone, set model={name}.")
        lookup(CANDIDATES, name, "net", " in nets")
    if (twice := first_duplicate(nets or ())) is not None:
        raise ConfigError(f"nets contains {twice!r} twice. Remove one.")


def check_single(spec: Mapping[str, Any]) -> None:
    """Raise a ConfigError if a net lists `nets`, where only a single one is possible."""
    if spec.get("nets"):
        raise ConfigError(
            "model.nets requires the built-in module, a dense head and weights that are not sharded. Remove "
            "model.nets."
        )


def check_encoding(spec: Mapping[str, Any], splits: Any) -> None:
    """Raise a ConfigError if a net has an encoding, and no feature has more than two values."""
    owners = [f"encoding={spec['encoding']}"] if spec.get("encoding", "none") != "none" else []
    owners += [f"The net {name}" for name in spec.get("nets") or () if CANDIDATES[name].encodes]
    if owners and not find_number_columns(splits.features, splits.rows["train"]):
        raise ConfigError(
            f"{owners[0]} has no effect: no feature has more than two values in the training rows. Remove it."
        )


def resolve_net(
    spec: Mapping[str, Any], task: Any, splits: Any, is_single: bool
) -> tuple[dict[str, Any], str]:
    """Return the spec of a net for rows in memory, and the reason of the choice if its name is "auto".

    Args:
        spec: The name and options of a net; with the name "auto", the option `nets` may list `CANDIDATES`.
        task: The task.
        splits: The `Splits` with features and training rows.
        is_single: Whether "auto" chooses a single net.
    """
    num_features = splits.features.shape[1]
    sized = {"num_features": num_features}
    is_auto, listed = spec["name"] == "auto", spec.get("nets")
    if is_auto and is_single:
        check_single(spec)
        reason = "a single net, because of the head, the module or the strategy"
        return {**CANDIDATES[SINGLE].options, **sized}, reason
    if not is_auto and spec.get("encoding", "none") == "none":
        return {**spec, **sized}, ""
    check_encoding(spec, splits)
    rows = splits.rows["train"]
    columns = find_number_columns(splits.features, rows)
    if not is_auto:
        return {"columns": columns, **spec, **sized}, ""
    names, reason = choose_nets(num_features, task.num_outputs, len(columns))
    if listed:
        names, reason = [*listed], "as configured"
    nets: dict[str, dict[str, Any]] = {}
    for name in names:
        candidate = CANDIDATES[name]
        nets[name] = dict(candidate.options)
        if candidate.encodes:
            nets[name]["columns"] = columns
        if candidate.selects:
            selected = select_features(splits.features, rows, task, splits.labels, SELECTED)
            nets[name]["features"] = selected
    if len(nets) == 1:
        return {**nets[names[0]], **sized}, reason
    return {"name": "ensemble", **sized, "nets": nets}, reason
