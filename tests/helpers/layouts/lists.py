"""Lists of labels as they are published."""

import json
from typing import Any

import numpy as np

from layouts.cases import Layout, Random, indicators, labelled, layout, table

FINDINGS = ["Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule"]


@layout
def titanic(draw: Random) -> Layout:
    numbers = {"PassengerId": [*range(1, draw.rows + 1)], "Pclass": draw.choice([1, 2, 3])}
    numbers |= {"Age": draw.with_gaps(draw.integers(1, 80)), "Fare": draw.numbers("f")["f"]}
    words = {"Sex": draw.choice(["male", "female"]), "Embarked": draw.with_gaps(draw.choice("SCQ"), 0.03)}
    texts = {"Name": [f"Braund, Mr. Owen {i}" for i in range(draw.rows)], "Ticket": draw.names("A/5 {}")}
    columns = {**numbers, "Survived": draw.choice([0, 1]), **texts, **words}
    tries, truth = ["", "data.exclude=[Name,Ticket]"], {"numbers": numbers, "categories": words}
    return labelled(
        "train.csv", columns, "Survived", *tries, task="binary", warnings=["index_column"], **truth
    )


TOXIC = ["toxic", "severe_toxic", "obscene", "threat"]


def toxic_columns(draw: Random) -> tuple[dict[str, Any], list[set[str]]]:
    texts = [f'{line}\n"quoted, {line}"' if i % 5 == 0 else line for i, line in enumerate(draw.sentences())]
    sets = draw.sets(TOXIC)
    columns = {"id": draw.names("{:016x}"), "comment_text": texts, **indicators(sets, TOXIC)}
    return columns, [{*row} for row in sets]


@layout
def toxic_comments(draw: Random) -> Layout:
    columns, sets = toxic_columns(draw)
    tries = ["data.text=[comment_text]", "data.exclude=[id]"]
    truth = {"labels": sets, "texts": ["comment_text"]}
    return labelled("train.csv", columns, TOXIC, *tries, task="multilabel", **truth)


@layout
def toxic_comments_without_settings(draw: Random) -> Layout:
    found = toxic_comments(Random("toxic_comments"))
    first = found.tries[0].replace(" data.text=[comment_text]", "")
    found.tries = [first, "data.exclude=[id] data.text=[comment_text]"]
    return found


@layout
def toxic_comments_with_test_labels(draw: Random) -> Layout:
    """Rows of the test file with -1 were not used for scoring."""
    found = toxic_comments(draw)
    test, sets = toxic_columns(draw)
    test["comment_text"] = [f"{text} again" for text in test["comment_text"]]
    for name in TOXIC:
        test[name] = [-1 if row % 3 == 0 else cell for row, cell in enumerate(test[name])]
    found.files |= {"test.csv": table(test)}
    found.tries = [f"{found.tries[0]} data.test_path=test.csv data.exclude=[id]", "data.missing=-1"]
    found.labels = found.labels + [None if row % 3 == 0 else labels for row, labels in enumerate(sets)]
    found.splits = [None] * 90 + ["test"] * 90
    return found


@layout
def otto_products(draw: Random) -> Layout:
    draw.rows = 120
    numbers = {f"feat_{i}": draw.integers(0, 60) for i in range(1, 94)}
    labels = draw.choice([f"Class_{i}" for i in range(1, 10)])
    columns = {"id": range(1, 121), **numbers, "target": labels}
    return labelled("train.csv", columns, "target", "", "data.exclude=[id]", numbers=numbers)


def listed(
    draw: Random, file: str, target: str, labels: list[Any], form: Any, *tries: str, **options: Any
) -> Layout:
    """Return a table of two numbers and a column of lists.

    `form` is a function from a list to a cell, or the separator of its labels.
    """
    sets = draw.sets(labels, options.pop("low", 0), options.pop("high", 3))
    names = options.pop("names", ("a", "b"))
    write = (lambda row: form.join(map(str, row))) if isinstance(form, str) else form
    numbers = draw.numbers(*names)
    columns = {**numbers, target: [write(row) for row in sets]}
    options |= {"labels": [{*row} for row in sets], "numbers": numbers}
    return labelled(file, columns, target, *tries, **{"task": "multilabel", **options})


def delimited(draw: Random, *arguments: Any, **options: Any) -> Layout:
    """Return the layout of `listed` with at least one label in each row."""
    return listed(draw, *arguments, **{"low": 1, "names": ("mean", "std"), **options})


TAGS = (
    "haze primary agriculture clear water habitation road cultivation slash_burn cloudy partly_cloudy "
    "conventional_mine bare_ground artisinal_mine blooming selective_logging blow_down"
)
BLANKS = "\"data.delimiter=' '\""


@layout
def satellite_tags(draw: Random) -> Layout:
    return delimited(draw, "train_v2.csv", "tags", TAGS.split(), " ", BLANKS, high=6)


@layout
def satellite_tags_without_a_delimiter(draw: Random) -> Layout:
    tries = ["", f"task=multilabel {BLANKS}"]
    return delimited(draw, "train_v2.csv", "tags", TAGS.split(), " ", *tries, high=6, task="auto")


@layout
def chest_xray14(draw: Random) -> Layout:
    sets = draw.sets(FINDINGS)
    patients = [1 + row // 3 for row in range(draw.rows)]
    numbers = {"Follow-up #": draw.integers(0, 9), "Patient Age": draw.integers(5, 90)}
    numbers |= {"OriginalImage[Width": draw.integers(900, 3000), "Height]": draw.integers(900, 3000)}
    words = {"Patient Gender": draw.choice("MF"), "View Position": draw.choice(["PA", "AP"])}
    columns = {
        "Image Index": draw.names("{:08}_000.png"),
        "Finding Labels": ["|".join(s) or "No Finding" for s in sets],
    }
    columns |= {"Patient ID": patients, **numbers, **words, "": [""] * draw.rows}
    return Layout(
        {"Data_Entry_2017.csv": table(columns)},
        [
            "task=multilabel data.path=Data_Entry_2017.csv \"data.target='Finding Labels'\" \"data.delimiter='|'\" "
            "\"data.no_label='No Finding'\" \"data.group='Patient ID'\"",
            "\"data.exclude=['Image Index']\"",
        ],
        [set(row) for row in sets],
        numbers,
        words,
        groups=patients,
    )


@layout
def chest_xray14_with_hints(draw: Random) -> Layout:
    """Only the target is set first; the header has a trailing comma, the rows too."""
    found = chest_xray14(Random("chest_xray14"))
    found.tries = [
        "task=multilabel data.path=Data_Entry_2017.csv \"data.target='Finding Labels'\" \"data.exclude=['Image Index']\"",
        "\"data.delimiter='|'\"",
        "\"data.no_label='No Finding'\" \"data.group='Patient ID'\"",
    ]
    return found


@layout
def chexpert(draw: Random) -> Layout:
    names = ["No Finding", "Cardiomegaly", "Edema", "Support Devices"]
    cells = {name: draw.choice([1.0, 0.0, -1.0, None]) for name in names}
    meaning = {1.0: 1, 0.0: 0, -1.0: np.nan, None: 0}
    truth = [[meaning[cell] for cell in row] for row in zip(*cells.values(), strict=True)]
    columns = {"Path": draw.names("CheXpert-v1.0-small/train/patient{:05}/study1/view1_frontal.jpg")}
    words = {"Sex": draw.choice(["Male", "Female"]), "Frontal/Lateral": draw.choice(["Frontal", "Lateral"])}
    words["AP/PA"] = draw.with_gaps(draw.choice(["AP", "PA"]), 0.3)
    age = {"Age": draw.integers(18, 90)}
    target = "\"data.target=['No Finding',Cardiomegaly,Edema,'Support Devices']\""
    return Layout(
        {"train.csv": table({**columns, **words, **age, **cells})},
        [
            f"task=multilabel data.path=train.csv {target} data.empty=negative data.uncertain=missing",
            "data.exclude=[Path]",
        ],
        truth,
        age,
        words,
        classes=names,
    )


@layout
def chexpert_without_settings(draw: Random) -> Layout:
    found = chexpert(Random("chexpert"))
    first = found.tries[0].replace(" data.empty=negative data.uncertain=missing", " data.exclude=[Path]")
    truth = np.array(found.labels)
    blank = [row.split(",")[5:] for row in found.files["train.csv"].decode().splitlines()[1:]]
    truth[np.array(blank) == ""] = np.nan
    found.labels, found.tries = truth.tolist(), [first, "data.uncertain=missing"]
    return found


@layout
def mimic_cxr(draw: Random) -> Layout:
    names = ["Atelectasis", "Edema", "Pneumonia"]
    cells = {name: draw.choice(["1.0", "0.0", "-1.0", ""]) for name in names}
    meaning = {"1.0": 1, "0.0": 0, "-1.0": 1, "": np.nan}
    truth = [[meaning[cell] for cell in row] for row in zip(*cells.values(), strict=True)]
    subjects = [10_000_000 + row // 3 * 97 for row in range(draw.rows)]
    parts = ["train", "train", "validate", "train", "test"]
    split = [parts[row // 3 % 5] for row in range(draw.rows)]
    columns = {
        "subject_id": subjects,
        "study_id": draw.names("{}"),
        **draw.numbers("score"),
        "split": split,
        **cells,
    }
    return Layout(
        {"mimic-cxr.csv": table(columns)},
        [
            "task=multilabel data.path=mimic-cxr.csv data.target=[Atelectasis,Edema,Pneumonia] data.uncertain=positive "
            "data.empty=missing data.split=split data.group=subject_id data.exclude=[study_id]",
        ],
        truth,
        {"score": columns["score"]},
        classes=names,
        groups=subjects,
        splits=["val" if part == "validate" else part for part in split],
    )


@layout
def plant_pathology(draw: Random) -> Layout:
    names = ["complex", "frog_eye_leaf_spot", "powdery_mildew", "rust", "scab"]
    sets = [{*row} or {"healthy"} for row in draw.sets(names)]
    numbers = draw.numbers("red", "green")
    columns = {"image": draw.names("{:x}.jpg"), **numbers, "labels": [" ".join(sorted(s)) for s in sets]}
    tries, truth = [BLANKS, "data.exclude=[image]"], {"labels": sets, "numbers": numbers}
    return labelled("train.csv", columns, "labels", *tries, task="multilabel", **truth)


@layout
def protein_atlas(draw: Random) -> Layout:
    classes = [str(i) for i in range(28)]
    return delimited(draw, "train.csv", "Target", [*range(28)], " ", BLANKS, classes=classes)


@layout
def protein_atlas_as_multiclass(draw: Random) -> Layout:
    found = protein_atlas(draw)
    found.tries = ["task=auto data.path=train.csv data.target=Target", f"task=multilabel {BLANKS}"]
    return found


@layout
def go_emotions(draw: Random) -> Layout:
    sets = draw.sets([*range(28)], 1, 2)
    content = zip(draw.sentences(), (",".join(map(str, s)) for s in sets), draw.names("ee{:05}"), strict=True)
    return Layout(
        {"train.tsv": "".join("\t".join(row) + "\n" for row in content).encode()},
        [
            "task=multilabel data.path=train.tsv data.header=false \"data.target='column 1'\" \"data.delimiter=','\" "
            "\"data.text=['column 0']\"",
            "\"data.exclude=['column 2']\"",
        ],
        [{*row} for row in sets],
        texts=["column 0"],
        classes=[str(i) for i in range(28)],
    )


@layout
def go_emotions_columns(draw: Random) -> Layout:
    names = ["admiration", "amusement", "anger"]
    sets = draw.sets(names)
    columns = {"text": draw.sentences(), "id": draw.names("e{:06}"), "rater_id": draw.integers(0, 80)}
    unclear = draw.choice(["False", "False", "True"])
    columns |= {"example_very_unclear": unclear, **indicators(sets, names)}
    truth = {"labels": [{*row} for row in sets], "texts": ["text"]}
    truth["numbers"] = {"example_very_unclear": [int(cell == "True") for cell in unclear]}
    settings = "data.text=[text] data.exclude=[id,rater_id]"
    return labelled("goemotions_1.csv", columns, names, settings, task="multilabel", **truth)


@layout
def stack_overflow_tags(draw: Random) -> Layout:
    sets = draw.sets(["python", "pandas", "c#", "c++", "node.js"], 1)
    columns = {"Title": draw.sentences(6), "Tags": ["".join(f"<{tag}>" for tag in row) for row in sets]}
    truth = {"labels": [{*row} for row in sets], "texts": ["Title"]}
    return labelled("questions.csv", columns, "Tags", "data.text=[Title]", task="multilabel", **truth)


@layout
def movie_genres(draw: Random) -> Layout:
    tries = ["\"data.delimiter='|'\"", "\"data.no_label='(no genres listed)'\""]
    genres = ["Action", "Comedy", "Film-Noir", "IMAX"]
    none = "(no genres listed)"
    return delimited(draw, "movies.csv", "genres", genres, lambda row: "|".join(row) or none, *tries, low=0)


@layout
def movies_dat(draw: Random) -> Layout:
    """Two characters separate the columns."""
    sets = draw.sets(["Action", "Comedy", "Drama"], 1)
    rows = zip(range(1, 91), draw.names("Film {} (1995)"), ("|".join(row) for row in sets), strict=True)
    return Layout(
        {"movies.dat": "".join(f"{i}::{title}::{genres}\n" for i, title, genres in rows).encode()},
        [
            "task=multilabel data.path=movies.dat data.header=false \"data.target='column 2'\" \"data.delimiter='|'\" "
            "\"data.exclude=['column 0']\" data.separator=:: \"data.text=['column 1']\"",
        ],
        [{*row} for row in sets],
        texts=["column 1"],
    )


def json_lines(
    file: str, columns: dict[str, Any], target: str, sets: list[Any], texts: list[str], *tries: str
) -> Layout:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    content = "\n".join(map(json.dumps, rows)).encode()
    truth = {"labels": [{*row} for row in sets], "texts": texts, "write": lambda _: content}
    return labelled(file, columns, target, *tries, task="multilabel", **truth)


@layout
def arxiv(draw: Random) -> Layout:
    sets = draw.sets(["cs.LG", "cs.AI", "stat.ML", "cs.CV", "math.OC"], 1)
    columns = {"id": draw.names("2101.{:05}"), "abstract": draw.sentences()}
    columns["categories"] = [" ".join(row) for row in sets]
    tries = ["data.text=[abstract] data.exclude=[id]", BLANKS]
    return json_lines("arxiv.jsonl", columns, "categories", sets, ["abstract"], *tries)


@layout
def eur_lex_lists(draw: Random) -> Layout:
    sets = draw.sets(["100163", "2300", "4489", "191"])
    columns = {"celex_id": draw.names("32003R{:04}"), "text": draw.sentences(), "eurovoc_concepts": sets}
    tries = ["data.text=[text]", "data.exclude=[celex_id]"]
    return json_lines("train.jsonl", columns, "eurovoc_concepts", sets, ["text"], *tries)


@layout
def reuters(draw: Random) -> Layout:
    """One row for each pair of a document and a topic."""
    sets = draw.sets(["earn", "acq", "grain", "trade"], 1)
    texts = draw.sentences()
    rows = [(row, label, texts[row]) for row, labels in enumerate(sets) for label in labels]
    columns = dict(zip(("doc", "topic", "text"), zip(*rows, strict=True), strict=True))
    truth = {"labels": [{*row} for row in sets], "texts": ["text"]}
    settings = "data.id=doc data.text=[text]"
    return labelled("reuters.csv", columns, "topic", settings, task="multilabel", **truth)


@layout
def diagnoses_icd(draw: Random) -> Layout:
    sets = draw.sets(["4019", "25000", "V3000", "I10"], 1)
    heart = draw.integers(40, 140)
    rows = [
        (20 + row * 7, heart[row], i, code)
        for row, codes in enumerate(sets)
        for i, code in enumerate(codes, 1)
    ]
    names = ("hadm_id", "heart_rate", "seq_num", "icd_code")
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    truth = {"labels": [{*row} for row in sets], "numbers": {"heart_rate": heart}}
    tries = ["data.id=hadm_id", "data.exclude=[seq_num]"]
    return labelled("diagnoses_icd.csv", columns, "icd_code", *tries, task="multilabel", **truth)


@layout
def skin_lesions(draw: Random) -> Layout:
    lesions = [f"HAM_{row // 2:07}" for row in range(draw.rows)]
    labels = draw.choice(["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"])
    words = {"dx_type": draw.choice(["histo", "follow_up"])}
    words["sex"] = draw.choice(["male", "female", "unknown"])
    age = {"age": draw.with_gaps(draw.integers(5, 85))}
    columns = {"lesion_id": lesions, "image_id": draw.names("ISIC_{:07}"), "dx": labels, **words, **age}
    tries = ["data.group=lesion_id", "data.exclude=[image_id]"]
    truth = {"numbers": age, "categories": words, "groups": lesions}
    return labelled("HAM10000_metadata.csv", columns, "dx", *tries, **truth)


@layout
def skin_lesions_without_a_group(draw: Random) -> Layout:
    found = skin_lesions(Random("skin_lesions"))
    found.tries = [
        found.tries[0].replace(" data.group=lesion_id", " data.exclude=[image_id]"),
        "data.group=lesion_id",
    ]
    return found


@layout
def python_lists(draw: Random) -> Layout:
    return listed(draw, "lists.csv", "tags", ["a b", "c, d", "e"], str)


@layout
def python_lists_with_a_delimiter(draw: Random) -> Layout:
    found = python_lists(Random("python_lists"))
    found.tries = [f"{found.tries[0]} \"data.delimiter=','\""]
    return found


@layout
def json_lists(draw: Random) -> Layout:
    return listed(draw, "lists.csv", "tags", [1, 7, 30], json.dumps)


@layout
def postgres_arrays(draw: Random) -> Layout:
    return listed(draw, "lists.csv", "tags", ["news", "sport", "tech"], lambda row: f"{{{','.join(row)}}}")


@layout
def comma_lists(draw: Random) -> Layout:
    labels, tries = ["news", "sport", "tech"], ["", "\"data.delimiter=','\""]
    return delimited(draw, "tags.csv", "tags", labels, ", ", *tries)


@layout
def semicolon_lists_with_empty_cells(draw: Random) -> Layout:
    labels, tries = ["news", "sport", "tech"], ["\"data.delimiter=';'\"", "data.empty=negative"]
    return delimited(draw, "tags.csv", "tags", labels, ";", *tries, low=0)


@layout
def hashtags(draw: Random) -> Layout:
    return delimited(draw, "tags.csv", "tags", ["#news", "#sport", "#tech"], " ", "", BLANKS)


@layout
def scene_paths(draw: Random) -> Layout:
    labels = draw.choice(["animal/cat", "animal/dog", "vehicle/car"])
    numbers = draw.numbers("a", "b")
    truth = {"labels": [{label, label.partition("/")[0]} for label in labels], "numbers": numbers}
    columns, settings = {**numbers, "class": labels}, "data.hierarchy=/"
    return labelled("paths.csv", columns, "class", settings, task="multilabel", **truth)


@layout
def product_taxonomy(draw: Random) -> Layout:
    leaves = ["Home > Kitchen > Pans", "Home > Garden", "Toys"]
    labels = draw.choice(leaves)
    columns = draw.numbers("price", "weight")
    paths = {
        leaf: {" > ".join(leaf.split(" > ")[: i + 1]) for i in range(leaf.count(">") + 1)} for leaf in leaves
    }
    return Layout(
        {"products.tsv": table({**columns, "category": labels}, "\t")},
        ["task=multilabel data.path=products.tsv data.target=category \"data.hierarchy=' > '\""],
        [paths[label] for label in labels],
        columns,
    )
