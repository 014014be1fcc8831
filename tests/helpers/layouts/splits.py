"""Official splits, groups and times, and tables of Kaggle competitions."""

from typing import Any

from layouts.cases import Layout, Random, layout, table

PARTS = ["train", "train", "train", "val", "test"]


def with_split(
    draw: Random, name: str, cells: list[Any], parts: list[str | None], *tries: str, **options: Any
) -> Layout:
    """Return a table with a column of splits."""
    columns, labels = draw.numbers("a", "b"), draw.choice(["x", "y", "z"])
    first = f"task=multiclass data.path=metadata.csv data.target=label {tries[0]}"
    return Layout(
        {"metadata.csv": table({**columns, name: cells, "label": labels})},
        [first, *tries[1:]],
        labels,
        columns,
        splits=parts,
        **options,
    )


def parts_of(draw: Random) -> list[str]:
    return draw.choice(PARTS)


@layout
def split_column(draw: Random) -> Layout:
    parts = parts_of(draw)
    return with_split(draw, "split", parts, parts, "data.split=split")


@layout
def split_column_without_a_setting(draw: Random) -> Layout:
    parts = parts_of(draw)
    return with_split(draw, "split", parts, parts, "", "data.split=split")


@layout
def is_test_column(draw: Random) -> Layout:
    cells = draw.choice([0, 0, 0, 1])
    return with_split(
        draw, "is_test", cells, ["test" if cell else None for cell in cells], "", "data.split=is_test"
    )


@layout
def cub_birds(draw: Random) -> Layout:
    cells = draw.choice([1, 0])
    parts = [None if cell else "test" for cell in cells]
    return with_split(draw, "is_training_image", cells, parts, "", "data.split=is_training_image")


@layout
def fold_column(draw: Random) -> Layout:
    cells = draw.choice(range(1, 11))
    return with_split(
        draw,
        "strat_fold",
        cells,
        ["test" if c == 10 else None for c in cells],
        "data.split=strat_fold data.test_fold=10",
    )


@layout
def fold_column_without_a_setting(draw: Random) -> Layout:
    cells = draw.choice(range(5))
    return with_split(
        draw,
        "fold",
        cells,
        ["test" if c == 0 else None for c in cells],
        "",
        "data.split=fold",
        "data.test_fold=0",
    )


@layout
def numbered_splits(draw: Random) -> Layout:
    """0 is train, 1 val and 2 test, as in the metadata of CelebA and Waterbirds."""
    cells = draw.choice([0, 0, 0, 1, 2])
    return with_split(
        draw,
        "split",
        cells,
        ["test" if c == 2 else None for c in cells],
        "data.split=split",
        "data.test_fold=2",
    )


@layout
def numbered_splits_without_a_setting(draw: Random) -> Layout:
    cells = draw.choice([0, 0, 0, 1, 2])
    return with_split(
        draw,
        "partition",
        cells,
        ["test" if c == 2 else None for c in cells],
        "",
        "data.split=partition",
        "data.test_fold=2",
    )


@layout
def wilds(draw: Random) -> Layout:
    """Other words than train, val and test; the user has to choose."""
    cells = draw.choice(["train", "train", "val", "test", "id_val", "id_test"])
    parts = {"test": "test", "val": "val", "train": "train", "id_val": "train", "id_test": "train"}
    return with_split(
        draw,
        "split",
        cells,
        [parts[cell] for cell in cells],
        "data.split=split",
        "data.test_fold=test data.val_fold=val",
    )


@layout
def three_files(draw: Random) -> Layout:
    files = {name: (draw.numbers("a", "b"), draw.choice(["x", "y"])) for name in ("train", "val", "test")}
    return Layout(
        {f"{name}.csv": table({**columns, "y": labels}) for name, (columns, labels) in files.items()},
        ["task=multiclass data.path=train.csv data.val_path=val.csv data.test_path=test.csv data.target=y"],
        [label for _, labels in files.values() for label in labels],
        {name: [x for columns, _ in files.values() for x in columns[name]] for name in "ab"},
        splits=[name for name in files for _ in range(90)],
    )


def patients(draw: Random, name: str, cells: list[Any], *tries: str) -> Layout:
    columns, labels = draw.numbers("a", "b"), draw.choice(["sick", "well"])
    first = f"task=multiclass data.path=visits.csv data.target=y {tries[0]}"
    return Layout(
        {"visits.csv": table({name: cells, **columns, "y": labels})},
        [first, *tries[1:]],
        labels,
        columns,
        groups=cells,
    )


@layout
def patients_by_number(draw: Random) -> Layout:
    return patients(draw, "patient_id", [100 + i // 3 for i in range(90)], "data.group=patient_id")


@layout
def patients_without_a_setting(draw: Random) -> Layout:
    return patients(draw, "patient_id", [100 + i // 3 for i in range(90)], "", "data.group=patient_id")


@layout
def patients_by_code(draw: Random) -> Layout:
    return patients(draw, "case", [f"TCGA-{i // 3:04}" for i in range(90)], "", "data.group=case")


@layout
def patient_numbers(draw: Random) -> Layout:
    return patients(draw, "PatientNr", [5000 + i // 3 * 17 for i in range(90)], "", "data.group=PatientNr")


@layout
def volunteers(draw: Random) -> Layout:
    """Few groups with many rows."""
    return patients(draw, "subject", [1 + i // 6 for i in range(90)], "", "data.group=subject")


@layout
def space_ship(draw: Random) -> Layout:
    """Labels and features are True and False; the id contains a group."""
    groups = [f"{i // 2:04}" for i in range(draw.rows)]
    flags = draw.with_gaps(draw.choice([True, False]))
    columns = {
        "PassengerId": [f"{g}_{i % 2 + 1:02}" for i, g in enumerate(groups)],
        "CryoSleep": flags,
        **draw.numbers("Age"),
    }
    labels = draw.choice([True, False])
    return Layout(
        {"train.csv": table({**columns, "Transported": labels})},
        ["task=binary data.path=train.csv data.target=Transported", "data.exclude=[PassengerId]"],
        labels,
        {"CryoSleep": flags, "Age": columns["Age"]},
        classes=["False", "True"],
    )


@layout
def energy_by_time(draw: Random) -> Layout:
    order = draw.rng.permutation(90).tolist()
    stamps = [f"2024-{1 + i // 28:02}-{1 + i % 28:02} 10:00:00" for i in order]
    columns, labels = draw.numbers("load"), draw.choice(["low", "high"])
    return Layout(
        {"energy.csv": table({"timestamp": stamps, **columns, "y": labels})},
        ["task=multiclass data.path=energy.csv data.target=y data.time=timestamp"],
        labels,
        columns,
        times=order,
    )


@layout
def years(draw: Random) -> Layout:
    cells = draw.choice(range(2000, 2015))
    columns, labels = draw.numbers("load"), draw.choice(["low", "high"])
    return Layout(
        {"panel.csv": table({"year": cells, **columns, "y": labels})},
        ["task=multiclass data.path=panel.csv data.target=y data.time=year"],
        labels,
        columns,
        times=cells,
    )


@layout
def times_of_day(draw: Random) -> Layout:
    columns, labels = draw.numbers("load"), draw.choice(["low", "high"])
    times = [f"{7 + i % 12:02}:{i % 60:02}" for i in range(90)]
    return Layout(
        {"trips.csv": table({"start": times, **columns, "y": labels})},
        ["task=multiclass data.path=trips.csv data.target=y", "data.date_format=%H:%M"],
        labels,
        columns,
        dates=["start"],
    )


@layout
def day_first_dates(draw: Random) -> Layout:
    columns, labels = draw.numbers("load"), draw.choice(["low", "high"])
    days = [f"{1 + i % 12:02}/{1 + i % 11:02}/2023" for i in range(90)]
    return Layout(
        {"orders.csv": table({"date": days, **columns, "y": labels})},
        ["task=multiclass data.path=orders.csv data.target=y", "data.date_format=dmy"],
        labels,
        columns,
        dates=["date"],
    )


@layout
def cities(draw: Random) -> Layout:
    """An ordinary category of many values in a small table."""
    draw.rows = 250
    columns, words = (
        draw.numbers("a", "b"),
        {"city": draw.choice([f"Town{chr(65 + i % 26)} {chr(65 + i // 26)}" for i in range(30)])},
    )
    labels = draw.choice(["x", "y"])
    return Layout(
        {"shops.csv": table({**columns, **words, "y": labels})},
        ["task=multiclass data.path=shops.csv data.target=y"],
        labels,
        columns,
        words,
    )


@layout
def credit_card_fraud(draw: Random) -> Layout:
    draw.rows = 200
    columns = {
        "Time": sorted(draw.integers(0, 150)),
        **draw.numbers(*(f"V{i}" for i in range(1, 29))),
        "Amount": draw.integers(0, 900),
    }
    labels = [int(row % 20 == 0) for row in range(200)]
    quoted = [f'"{label}"' for label in labels]
    content = table({**columns, "Class": labels}).decode().replace("Time,", '"Time",', 1)
    lines = content.splitlines()
    lines = lines[:1] + [
        f"{line.rpartition(',')[0]},{quote}" for line, quote in zip(lines[1:], quoted, strict=True)
    ]
    return Layout(
        {"creditcard.csv": "\n".join(lines).encode()},
        ["task=binary data.path=creditcard.csv data.target=Class"],
        labels,
        columns,
    )


@layout
def santander(draw: Random) -> Layout:
    columns = draw.numbers(*(f"var_{i}" for i in range(200)))
    labels = draw.choice([0, 1])
    return Layout(
        {"train.csv": table({"ID_code": draw.names("train_{}"), "target": labels, **columns})},
        ["task=binary data.path=train.csv data.target=target", "data.exclude=[ID_code]"],
        labels,
        columns,
    )


@layout
def telco_churn(draw: Random) -> Layout:
    """Blanks in a column of numbers."""
    numbers = {
        "tenure": draw.integers(0, 70),
        "TotalCharges": draw.with_gaps(draw.numbers("t", digits=2)["t"], 0.05),
    }
    words = {"gender": draw.choice(["Male", "Female"]), "Contract": draw.choice(["One year", "Two year"])}
    labels = draw.choice(["No", "Yes"])
    return Layout(
        {
            "churn.csv": table(
                {"customerID": draw.names("{:04}-VHVEG"), **words, **numbers, "Churn": labels}, empty=" "
            )
        },
        ["task=binary data.path=churn.csv data.target=Churn", "data.exclude=[customerID]"],
        labels,
        numbers,
        words,
    )


@layout
def stroke(draw: Random) -> Layout:
    numbers = {"age": draw.integers(1, 90), "bmi": draw.with_gaps(draw.numbers("b", digits=1)["b"])}
    labels = draw.choice([0, 1])
    return Layout(
        {"stroke.csv": table({"id": draw.names("{}"), **numbers, "stroke": labels}, empty="N/A")},
        ["task=binary data.path=stroke.csv data.target=stroke data.exclude=[id]", "data.null_values=['N/A']"],
        labels,
        numbers,
    )


@layout
def hr_attrition(draw: Random) -> Layout:
    numbers = {"Age": draw.integers(18, 60), "DailyRate": draw.integers(100, 1500)}
    labels = draw.choice(["Yes", "No"])
    constant = {"EmployeeCount": [1] * 90, "Over18": ["Y"] * 90}
    return Layout(
        {"hr.csv": table({**numbers, "Attrition": labels, **constant, "EmployeeNumber": range(1, 91)})},
        ["task=binary data.path=hr.csv data.target=Attrition", "data.exclude=[EmployeeNumber]"],
        labels,
        numbers,
        warnings=["constant_feature"],
    )


@layout
def sf_crime(draw: Random) -> Layout:
    dates = [f"2015-05-{1 + i % 13:02} 23:{i % 60:02}:00" for i in range(90)]
    labels = draw.choice(["WARRANTS", "LARCENY/THEFT", "OTHER OFFENSES"])
    words = {"PdDistrict": draw.choice(["NORTHERN", "PARK"])}
    texts = {"Address": draw.names("{} OAK ST / LAGUNA ST")}
    numbers = draw.numbers("X", "Y", digits=8)
    return Layout(
        {"train.csv": table({"Dates": dates, "Category": labels, **words, **texts, **numbers})},
        ["task=multiclass data.path=train.csv data.target=Category", "data.text=[Address]"],
        labels,
        numbers,
        words,
        ["Dates"],
        ["Address"],
    )


@layout
def quora(draw: Random) -> Layout:
    texts, labels = draw.sentences(), draw.choice([0, 1])
    return Layout(
        {"train.csv": table({"qid": draw.names("{:020x}"), "question_text": texts, "target": labels})},
        [
            "task=binary data.path=train.csv data.target=target data.text=[question_text]",
            "data.exclude=[qid]",
        ],
        labels,
        texts=["question_text"],
    )


@layout
def imdb(draw: Random) -> Layout:
    texts, labels = (
        [f'{line}<br /><br />"So, so"' for line in draw.sentences()],
        draw.choice(["positive", "negative"]),
    )
    return Layout(
        {"IMDB Dataset.csv": table({"review": texts, "sentiment": labels})},
        ["task=binary \"data.path='IMDB Dataset.csv'\" data.target=sentiment", "data.text=[review]"],
        labels,
        texts=["review"],
    )


@layout
def retinopathy_grades(draw: Random) -> Layout:
    labels, columns = draw.choice(range(5)), draw.numbers("red", "green")
    return Layout(
        {"train.csv": table({"id_code": draw.names("{:012x}"), **columns, "diagnosis": labels})},
        [
            "task=multiclass task.ordinal=true data.path=train.csv data.target=diagnosis",
            "data.exclude=[id_code]",
        ],
        labels,
        columns,
    )


@layout
def iris_of_kaggle(draw: Random) -> Layout:
    labels, columns = (
        draw.choice(["Iris-setosa", "Iris-virginica"]),
        draw.numbers("SepalLengthCm", "SepalWidthCm"),
    )
    return Layout(
        {"Iris.csv": table({"Id": range(1, 91), **columns, "Species": labels})},
        ["task=multiclass data.path=Iris.csv data.target=Species", "data.exclude=[Id]"],
        labels,
        columns,
    )


@layout
def paths_of_images(draw: Random) -> Layout:
    labels, columns = draw.choice(["cat", "dog"]), draw.numbers("width", "height")
    return Layout(
        {"labels.csv": table({"filepath": draw.names("images/{:05}.jpg"), **columns, "breed": labels})},
        ["task=multiclass data.path=labels.csv data.target=breed", "data.exclude=[filepath]"],
        labels,
        columns,
    )
