"""Label columns as they are published: words, signs, votes, annotators; and unusual classes."""

from typing import Any

import numpy as np

from layouts.cases import Layout, Random, indicators, labelled, layout, rows_of, table


@layout
def isic_one_hot(draw: Random) -> Layout:
    names = ["MEL", "NV", "BCC", "AK"]
    labels = draw.choice(names)
    numbers = draw.numbers("red", "green")
    cells = indicators([[label] for label in labels], names, "1.0", "0.0")
    columns = {"image": draw.names("ISIC_{:07}"), **cells, **numbers}
    truth = [[float(label == name) for name in names] for label in labels]
    settings = "data.exclude=[image]"
    return labelled("ISIC_GroundTruth.csv", columns, names, settings, labels=truth, numbers=numbers)


@layout
def galaxy_zoo(draw: Random) -> Layout:
    """Fractions of votes with six digits for the answers to several questions."""
    smooth = draw.rng.dirichlet([1, 1, 1], draw.rows).round(6)
    smooth[:, 2] = (1 - smooth[:, 0] - smooth[:, 1]).round(6)
    edge = (smooth[:, 1] * draw.rng.random(draw.rows)).round(6)
    numbers = draw.numbers("petro", "mag")
    cells = dict(zip(["Class1.1", "Class1.2", "Class1.3", "Class2.1"], [*smooth.T, edge], strict=True))
    columns = {"GalaxyID": draw.names("{:06}"), **numbers, **cells}
    file, settings = "training_solutions_rev1.csv", "data.exclude=[GalaxyID]"
    truth = np.column_stack([*cells.values()]).tolist()
    return labelled(file, columns, [*cells], settings, task="multilabel", labels=truth, numbers=numbers)


@layout
def rounded_soft_labels(draw: Random) -> Layout:
    values = draw.rng.dirichlet([1, 1, 1], draw.rows).round(3)
    numbers = draw.numbers("a", "b")
    cells = dict(zip(["smooth", "disk", "star"], values.T.tolist(), strict=True))
    truth = {"labels": (values / values.sum(1, keepdims=True)).tolist(), "warnings": ["rounded_soft_labels"]}
    return labelled("soft.csv", {**numbers, **cells}, [*cells], numbers=numbers, **truth)


@layout
def vote_counts(draw: Random) -> Layout:
    votes = draw.rng.integers(0, 9, (draw.rows, 3))
    votes[:, 0] += 1
    columns = draw.numbers("a", "b")
    names = ["yes", "no", "unsure"]
    return Layout(
        {"votes.csv": table({**columns, **dict(zip(names, votes.T.tolist(), strict=True))})},
        ["task=multiclass data.path=votes.csv \"data.target=['yes','no',unsure]\"", "data.counts=true"],
        (votes / votes.sum(1, keepdims=True)).tolist(),
        columns,
        classes=names,
    )


@layout
def annotators(draw: Random) -> Layout:
    truth = draw.choice(["cat", "dog", "fox"])
    other = draw.choice(["cat", "dog", "fox"])
    numbers = draw.numbers("a", "b")
    answers = {"ann": truth, "bob": truth, "eve": draw.with_gaps(other, 0.3)}
    options = {"labels": truth, "numbers": numbers, "classes": None}
    settings = "data.annotators=majority"
    return labelled("votes.csv", {**numbers, **answers}, [*answers], settings, **options)


def marked(draw: Random, file: str, names: list[str], yes: Any, no: Any) -> Layout:
    """Return a table with a column for each label."""
    sets = draw.sets(names)
    numbers = draw.numbers("a", "b")
    columns = {**numbers, **indicators(sets, names, yes, no)}
    truth = [{*row} for row in sets]
    return labelled(file, columns, names, task="multilabel", labels=truth, numbers=numbers)


@layout
def yes_no_columns(draw: Random) -> Layout:
    return marked(draw, "symptoms.csv", ["fever", "cough"], "Yes", "No")


@layout
def x_columns(draw: Random) -> Layout:
    return marked(draw, "marks.csv", ["A", "B", "C"], "x", None)


@layout
def signed_columns(draw: Random) -> Layout:
    return marked(draw, "signs.csv", ["A", "B", "C"], 1, -1)


@layout
def celeba(draw: Random) -> Layout:
    """The first line counts the rows, columns are separated by blanks, and the header lacks the name of a column."""
    names = ["Bald", "Smiling", "Young"]
    sets = draw.sets(names)
    cells = indicators(sets, names, " 1", "-1")
    columns = draw.numbers("lefteye_x", "lefteye_y", digits=1)
    rows = rows_of({"file": draw.names("{:06}.jpg"), **cells, **columns})
    lines = [f"{draw.rows}", " ".join([*names, *columns]), *(" ".join(row) for row in rows)]
    without = lines[1:]
    return Layout(
        {"list_attr_celeba.txt": ("\n".join(without) + "\n").encode()},
        [
            "task=multilabel data.path=list_attr_celeba.txt data.target=[Bald,Smiling,Young]",
            "\"data.exclude=['column 0']\"",
        ],
        [{*s} for s in sets],
        columns,
        classes=names,
    )


def classes(draw: Random, file: str, target: str, values: list[Any]) -> Layout:
    """Return a table of two numbers and a class."""
    labels = draw.choice(values)
    numbers = draw.numbers("a", "b")
    return labelled(file, {**numbers, target: labels}, target, numbers=numbers)


@layout
def countries(draw: Random) -> Layout:
    """NA is Namibia."""
    return classes(draw, "iso.csv", "country", ["NA", "DE", "NO", "ZA"])


@layout
def weather_australia(draw: Random) -> Layout:
    """NA marks missing features and labels, and there is a date."""
    numbers = {
        "MinTemp": draw.with_gaps(draw.numbers("t")["t"]),
        "Rainfall": draw.with_gaps(draw.numbers("r")["r"]),
    }
    words = {
        "Location": draw.choice(["Albury", "Perth", "Cobar"]),
        "RainToday": draw.with_gaps(draw.choice(["No", "Yes"])),
    }
    labels = draw.with_gaps(draw.choice(["No", "Yes"]), 0.05)
    dates = [f"2008-{1 + row // 28:02}-{1 + row % 28:02}" for row in range(draw.rows)]
    return Layout(
        {"weatherAUS.csv": table({"Date": dates, **words, **numbers, "RainTomorrow": labels}, empty="NA")},
        ["task=binary data.path=weatherAUS.csv data.target=RainTomorrow data.null_values=[NA]"],
        labels,
        numbers,
        words,
        ["Date"],
    )


@layout
def weather_australia_without_settings(draw: Random) -> Layout:
    found = weather_australia(Random("weather_australia"))
    found.tries = [
        "task=binary data.path=weatherAUS.csv data.target=RainTomorrow",
        "data.missing=NA",
        "data.null_values=[NA]",
    ]
    return found


@layout
def strange_labels(draw: Random) -> Layout:
    return classes(draw, "labels.csv", "y", ["🙂", "a, b", 'say "x"', "=cmd()", "naïve"])


@layout
def labels_with_gaps(draw: Random) -> Layout:
    return classes(draw, "labels.csv", "y", [3, 7, 100])


@layout
def sample_weights(draw: Random) -> Layout:
    labels = draw.choice(["b", "s"])
    columns = draw.numbers("DER_mass", "PRI_tau")
    columns["DER_mass"] = [-999.0 if row % 9 == 0 else value for row, value in enumerate(columns["DER_mass"])]
    numbers = {**columns, "DER_mass": [None if value == -999 else value for value in columns["DER_mass"]]}
    columns = {"EventId": range(100_000, 100_090), **columns}
    columns |= {"Weight": draw.rng.random(draw.rows).round(4).tolist(), "Label": labels}
    settings = "data.positive=s data.sample_weight=Weight data.exclude=[EventId] data.null_values=[-999.0]"
    return labelled("higgs-boson.csv", columns, "Label", settings, task="binary", numbers=numbers)
