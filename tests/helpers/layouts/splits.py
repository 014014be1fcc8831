"""Official splits, groups and times, and tables of Kaggle competitions."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from layouts.cases import Layout, Random, labelled, layout, table

PARTS = ["train", "train", "train", "val", "test"]


def with_split(
    draw: Random, name: str, cells: list[Any], *tries: str, words: Mapping[Any, str] | None = None
) -> Layout:
    """Return a table with a column of splits; `words` are the splits of its cells, by default themselves."""
    numbers = draw.numbers("a", "b")
    columns = {**numbers, name: cells, "label": draw.choice(["x", "y", "z"])}
    splits = cells if words is None else [*map(words.get, cells)]
    return labelled("metadata.csv", columns, "label", *tries, numbers=numbers, splits=splits)


@layout
def split_column(draw: Random) -> Layout:
    return with_split(draw, "split", draw.choice(PARTS), "data.split=split")


@layout
def split_column_without_a_setting(draw: Random) -> Layout:
    return with_split(draw, "split", draw.choice(PARTS), "", "data.split=split")


@layout
def is_test_column(draw: Random) -> Layout:
    cells = draw.choice([0, 0, 0, 1])
    return with_split(draw, "is_test", cells, "", "data.split=is_test", words={1: "test"})


@layout
def cub_birds(draw: Random) -> Layout:
    setting = "data.split=is_training_image"
    return with_split(draw, "is_training_image", draw.choice([1, 0]), "", setting, words={0: "test"})


@layout
def fold_column(draw: Random) -> Layout:
    settings = "data.split=strat_fold data.test_fold=10"
    return with_split(draw, "strat_fold", draw.choice(range(1, 11)), settings, words={10: "test"})


@layout
def fold_column_without_a_setting(draw: Random) -> Layout:
    tries = ["", "data.split=fold", "data.test_fold=0"]
    return with_split(draw, "fold", draw.choice(range(5)), *tries, words={0: "test"})


@layout
def numbered_splits(draw: Random) -> Layout:
    """0 is train, 1 val and 2 test, as in the metadata of CelebA and Waterbirds."""
    tries = ["data.split=split", "data.test_fold=2"]
    return with_split(draw, "split", draw.choice([0, 0, 0, 1, 2]), *tries, words={2: "test"})


@layout
def numbered_splits_without_a_setting(draw: Random) -> Layout:
    tries = ["", "data.split=partition", "data.test_fold=2"]
    return with_split(draw, "partition", draw.choice([0, 0, 0, 1, 2]), *tries, words={2: "test"})


@layout
def wilds(draw: Random) -> Layout:
    """Other words than train, val and test; the user has to choose."""
    cells = draw.choice(["train", "train", "val", "test", "id_val", "id_test"])
    words = {"test": "test", "val": "val", "train": "train", "id_val": "train", "id_test": "train"}
    tries = ["data.split=split", "data.test_fold=test data.val_fold=val"]
    return with_split(draw, "split", cells, *tries, words=words)


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
    numbers = draw.numbers("a", "b")
    columns = {name: cells, **numbers, "y": draw.choice(["sick", "well"])}
    return labelled("visits.csv", columns, "y", *tries, numbers=numbers, groups=cells)


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
    flags = draw.with_gaps(draw.choice([True, False]))
    ids = [f"{i // 2:04}_{i % 2 + 1:02}" for i in range(draw.rows)]
    numbers = {"CryoSleep": flags, **draw.numbers("Age")}
    columns = {"PassengerId": ids, **numbers, "Transported": draw.choice([True, False])}
    tries, classes = ["", "data.exclude=[PassengerId]"], ["False", "True"]
    return labelled(
        "train.csv", columns, "Transported", *tries, task="binary", numbers=numbers, classes=classes
    )


@layout
def energy_by_time(draw: Random) -> Layout:
    order = draw.rng.permutation(90).tolist()
    stamps = [f"2024-{1 + i // 28:02}-{1 + i % 28:02} 10:00:00" for i in order]
    numbers = draw.numbers("load")
    columns = {"timestamp": stamps, **numbers, "y": draw.choice(["low", "high"])}
    return labelled("energy.csv", columns, "y", "data.time=timestamp", numbers=numbers, times=order)


@layout
def years(draw: Random) -> Layout:
    cells = draw.choice(range(2000, 2015))
    numbers = draw.numbers("load")
    columns = {"year": cells, **numbers, "y": draw.choice(["low", "high"])}
    return labelled("panel.csv", columns, "y", "data.time=year", numbers=numbers, times=cells)


@layout
def times_of_day(draw: Random) -> Layout:
    times = [f"{7 + i % 12:02}:{i % 60:02}" for i in range(90)]
    numbers = draw.numbers("load")
    columns = {"start": times, **numbers, "y": draw.choice(["low", "high"])}
    return labelled("trips.csv", columns, "y", "", "data.date_format=%H:%M", numbers=numbers, dates=["start"])


@layout
def day_first_dates(draw: Random) -> Layout:
    days = [f"{1 + i % 12:02}/{1 + i % 11:02}/2023" for i in range(90)]
    numbers = draw.numbers("load")
    columns = {"date": days, **numbers, "y": draw.choice(["low", "high"])}
    return labelled("orders.csv", columns, "y", "", "data.date_format=dmy", numbers=numbers, dates=["date"])


@layout
def cities(draw: Random) -> Layout:
    """An ordinary category of many values in a small table."""
    draw.rows = 250
    numbers = draw.numbers("a", "b")
    words = {"city": draw.choice([f"Town{chr(65 + i % 26)} {chr(65 + i // 26)}" for i in range(30)])}
    columns = {**numbers, **words, "y": draw.choice(["x", "y"])}
    return labelled("shops.csv", columns, "y", numbers=numbers, categories=words)


@layout
def credit_card_fraud(draw: Random) -> Layout:
    draw.rows = 200
    numbers = {"Time": sorted(draw.integers(0, 150)), **draw.numbers(*(f"V{i}" for i in range(1, 29)))}
    numbers["Amount"] = draw.integers(0, 900)
    columns = {**numbers, "Class": [int(row % 20 == 0) for row in range(200)]}

    def write(columns: Mapping[str, Any]) -> bytes:
        header, *rows = table(columns).decode().replace("Time,", '"Time",', 1).splitlines()
        return "\n".join([header, *(f'{row[:-1]}"{row[-1]}"' for row in rows)]).encode()

    return labelled("creditcard.csv", columns, "Class", task="binary", write=write, numbers=numbers)


@layout
def santander(draw: Random) -> Layout:
    numbers = draw.numbers(*(f"var_{i}" for i in range(200)))
    columns = {"ID_code": draw.names("train_{}"), "target": draw.choice([0, 1]), **numbers}
    tries = ["", "data.exclude=[ID_code]"]
    return labelled("train.csv", columns, "target", *tries, task="binary", numbers=numbers)


@layout
def telco_churn(draw: Random) -> Layout:
    """Blanks in a column of numbers."""
    numbers = {"tenure": draw.integers(0, 70)}
    numbers["TotalCharges"] = draw.with_gaps(draw.numbers("t", digits=2)["t"], 0.05)
    words = {"gender": draw.choice(["Male", "Female"]), "Contract": draw.choice(["One year", "Two year"])}
    columns = {
        "customerID": draw.names("{:04}-VHVEG"),
        **words,
        **numbers,
        "Churn": draw.choice(["No", "Yes"]),
    }
    tries, truth = ["", "data.exclude=[customerID]"], {"numbers": numbers, "categories": words}
    write = partial(table, empty=" ")
    return labelled("churn.csv", columns, "Churn", *tries, task="binary", write=write, **truth)


@layout
def stroke(draw: Random) -> Layout:
    numbers = {"age": draw.integers(1, 90), "bmi": draw.with_gaps(draw.numbers("b", digits=1)["b"])}
    columns = {"id": draw.names("{}"), **numbers, "stroke": draw.choice([0, 1])}
    tries, write = ["data.exclude=[id]", "data.null_values=['N/A']"], partial(table, empty="N/A")
    return labelled("stroke.csv", columns, "stroke", *tries, task="binary", write=write, numbers=numbers)


@layout
def hr_attrition(draw: Random) -> Layout:
    numbers = {"Age": draw.integers(18, 60), "DailyRate": draw.integers(100, 1500)}
    columns = {**numbers, "Attrition": draw.choice(["Yes", "No"])}
    columns |= {"EmployeeCount": [1] * 90, "Over18": ["Y"] * 90, "EmployeeNumber": range(1, 91)}
    tries, truth = ["", "data.exclude=[EmployeeNumber]"], {"warnings": ["constant_feature"]}
    return labelled("hr.csv", columns, "Attrition", *tries, task="binary", numbers=numbers, **truth)


@layout
def sf_crime(draw: Random) -> Layout:
    columns = {"Dates": [f"2015-05-{1 + i % 13:02} 23:{i % 60:02}:00" for i in range(90)]}
    columns["Category"] = draw.choice(["WARRANTS", "LARCENY/THEFT", "OTHER OFFENSES"])
    truth: dict[str, Any] = {"categories": {"PdDistrict": draw.choice(["NORTHERN", "PARK"])}}
    truth |= {"numbers": draw.numbers("X", "Y", digits=8), "dates": ["Dates"], "texts": ["Address"]}
    columns |= {**truth["categories"], "Address": draw.names("{} OAK ST / LAGUNA ST"), **truth["numbers"]}
    return labelled("train.csv", columns, "Category", "", "data.text=[Address]", **truth)


@layout
def quora(draw: Random) -> Layout:
    columns = {"qid": draw.names("{:020x}"), "question_text": draw.sentences(), "target": draw.choice([0, 1])}
    tries = ["data.text=[question_text]", "data.exclude=[qid]"]
    return labelled("train.csv", columns, "target", *tries, task="binary", texts=["question_text"])


@layout
def imdb(draw: Random) -> Layout:
    columns = {"review": [f'{line}<br /><br />"So, so"' for line in draw.sentences()]}
    columns["sentiment"] = draw.choice(["positive", "negative"])
    found = labelled("IMDB Dataset.csv", columns, "sentiment", texts=["review"])
    found.tries = ["task=binary \"data.path='IMDB Dataset.csv'\" data.target=sentiment", "data.text=[review]"]
    return found


@layout
def retinopathy_grades(draw: Random) -> Layout:
    labels, numbers = draw.choice(range(5)), draw.numbers("red", "green")
    columns = {"id_code": draw.names("{:012x}"), **numbers, "diagnosis": labels}
    tries = ["task.ordinal=true", "data.exclude=[id_code]"]
    return labelled("train.csv", columns, "diagnosis", *tries, numbers=numbers)


@layout
def iris_of_kaggle(draw: Random) -> Layout:
    labels = draw.choice(["Iris-setosa", "Iris-virginica"])
    numbers = draw.numbers("SepalLengthCm", "SepalWidthCm")
    columns = {"Id": range(1, 91), **numbers, "Species": labels}
    return labelled("Iris.csv", columns, "Species", "", "data.exclude=[Id]", numbers=numbers)


@layout
def paths_of_images(draw: Random) -> Layout:
    labels, numbers = draw.choice(["cat", "dog"]), draw.numbers("width", "height")
    columns = {"filepath": draw.names("images/{:05}.jpg"), **numbers, "breed": labels}
    return labelled("labels.csv", columns, "breed", "", "data.exclude=[filepath]", numbers=numbers)
