"""Label columns as they are published: words, signs, votes, annotators; and unusual classes."""

import numpy as np

from layouts.cases import Layout, Random, indicators, layout, rows_of, table


@layout
def isic_one_hot(draw: Random) -> Layout:
    names = ["MEL", "NV", "BCC", "AK"]
    labels = draw.choice(names)
    columns = draw.numbers("red", "green")
    cells = indicators([[label] for label in labels], names, "1.0", "0.0")
    return Layout(
        {"ISIC_GroundTruth.csv": table({"image": draw.names("ISIC_{:07}"), **cells, **columns})},
        ["task=multiclass data.path=ISIC_GroundTruth.csv data.target=[MEL,NV,BCC,AK] data.exclude=[image]"],
        [[float(label == name) for name in names] for label in labels],
        columns,
        classes=names,
    )


@layout
def galaxy_zoo(draw: Random) -> Layout:
    """Fractions of votes with six digits for the answers to several questions."""
    smooth = draw.rng.dirichlet([1, 1, 1], draw.rows).round(6)
    smooth[:, 2] = (1 - smooth[:, 0] - smooth[:, 1]).round(6)
    edge = (smooth[:, 1] * draw.rng.random(draw.rows)).round(6)
    names = ["Class1.1", "Class1.2", "Class1.3", "Class2.1"]
    values = np.column_stack([smooth, edge])
    columns = draw.numbers("petro", "mag")
    cells = dict(zip(names, values.T.tolist(), strict=True))
    return Layout(
        {"training_solutions_rev1.csv": table({"GalaxyID": draw.names("{:06}"), **columns, **cells})},
        [
            "task=multilabel data.path=training_solutions_rev1.csv data.target=[Class1.1,Class1.2,Class1.3,Class2.1] "
            "data.exclude=[GalaxyID]",
        ],
        values.tolist(),
        columns,
        classes=names,
    )


@layout
def rounded_soft_labels(draw: Random) -> Layout:
    values = draw.rng.dirichlet([1, 1, 1], draw.rows).round(3)
    columns = draw.numbers("a", "b")
    names = ["smooth", "disk", "star"]
    return Layout(
        {"soft.csv": table({**columns, **dict(zip(names, values.T.tolist(), strict=True))})},
        ["task=multiclass data.path=soft.csv data.target=[smooth,disk,star]"],
        (values / values.sum(1, keepdims=True)).tolist(),
        columns,
        classes=names,
        warnings=["rounded_soft_labels"],
    )


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
    columns = draw.numbers("a", "b")
    answers = {"ann": truth, "bob": truth, "eve": draw.with_gaps(other, 0.3)}
    return Layout(
        {"votes.csv": table({**columns, **answers})},
        ["task=multiclass data.path=votes.csv data.target=[ann,bob,eve] data.annotators=majority"],
        truth,
        columns,
    )


@layout
def yes_no_columns(draw: Random) -> Layout:
    names = ["fever", "cough"]
    sets = draw.sets(names)
    columns = draw.numbers("a", "b")
    return Layout(
        {"symptoms.csv": table({**columns, **indicators(sets, names, "Yes", "No")})},
        ["task=multilabel data.path=symptoms.csv data.target=[fever,cough]"],
        [{*s} for s in sets],
        columns,
        classes=names,
    )


@layout
def x_columns(draw: Random) -> Layout:
    names = ["A", "B", "C"]
    sets = draw.sets(names)
    columns = draw.numbers("a", "b")
    return Layout(
        {"marks.csv": table({**columns, **indicators(sets, names, "x", None)})},
        ["task=multilabel data.path=marks.csv data.target=[A,B,C]"],
        [{*s} for s in sets],
        columns,
        classes=names,
    )


@layout
def signed_columns(draw: Random) -> Layout:
    names = ["A", "B", "C"]
    sets = draw.sets(names)
    columns = draw.numbers("a", "b")
    return Layout(
        {"signs.csv": table({**columns, **indicators(sets, names, 1, -1)})},
        ["task=multilabel data.path=signs.csv data.target=[A,B,C]"],
        [{*s} for s in sets],
        columns,
        classes=names,
    )


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


@layout
def countries(draw: Random) -> Layout:
    """NA is Namibia."""
    labels = draw.choice(["NA", "DE", "NO", "ZA"])
    columns = draw.numbers("a", "b")
    return Layout(
        {"iso.csv": table({**columns, "country": labels})},
        ["task=multiclass data.path=iso.csv data.target=country"],
        labels,
        columns,
    )


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
    labels = draw.choice(["🙂", "a, b", 'say "x"', "=cmd()", "naïve"])
    columns = draw.numbers("a", "b")
    return Layout(
        {"labels.csv": table({**columns, "y": labels})},
        ["task=multiclass data.path=labels.csv data.target=y"],
        labels,
        columns,
    )


@layout
def labels_with_gaps(draw: Random) -> Layout:
    labels = draw.choice([3, 7, 100])
    columns = draw.numbers("a", "b")
    return Layout(
        {"labels.csv": table({**columns, "y": labels})},
        ["task=multiclass data.path=labels.csv data.target=y"],
        labels,
        columns,
    )


@layout
def sample_weights(draw: Random) -> Layout:
    labels = draw.choice(["b", "s"])
    columns = draw.numbers("DER_mass", "PRI_tau")
    columns["DER_mass"] = [-999.0 if row % 9 == 0 else value for row, value in enumerate(columns["DER_mass"])]
    missing = {**columns, "DER_mass": [None if value == -999 else value for value in columns["DER_mass"]]}
    weights = draw.rng.random(draw.rows).round(4).tolist()
    return Layout(
        {
            "higgs-boson.csv": table(
                {"EventId": range(100_000, 100_090), **columns, "Weight": weights, "Label": labels}
            )
        },
        [
            "task=binary data.path=higgs-boson.csv data.target=Label data.positive=s data.sample_weight=Weight "
            "data.exclude=[EventId] data.null_values=[-999.0]",
        ],
        labels,
        missing,
    )
