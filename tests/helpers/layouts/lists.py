"""Lists of labels as they are published."""

import json
from typing import Any

import numpy as np

from layouts.cases import Layout, Random, indicators, layout, table

FINDINGS = ["Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule"]


@layout
def titanic(draw: Random) -> Layout:
    numbers = {"PassengerId": [*range(1, draw.rows + 1)], "Pclass": draw.choice([1, 2, 3])}
    numbers |= {"Age": draw.with_gaps(draw.integers(1, 80)), "Fare": draw.numbers("f")["f"]}
    words = {"Sex": draw.choice(["male", "female"]), "Embarked": draw.with_gaps(draw.choice("SCQ"), 0.03)}
    texts = {"Name": [f"Braund, Mr. Owen {i}" for i in range(draw.rows)], "Ticket": draw.names("A/5 {}")}
    labels = draw.choice([0, 1])
    return Layout(
        {"train.csv": table({**numbers, "Survived": labels, **texts, **words})},
        ["task=binary data.path=train.csv data.target=Survived", "data.exclude=[Name,Ticket]"],
        labels,
        numbers,
        words,
        warnings=["index_column"],
    )


def toxic_columns(draw: Random) -> tuple[dict[str, Any], list[set[str]], str]:
    names = ["toxic", "severe_toxic", "obscene", "threat"]
    texts = [f'{line}\n"quoted, {line}"' if i % 5 == 0 else line for i, line in enumerate(draw.sentences())]
    sets = draw.sets(names)
    return {"id": draw.names("{:016x}"), "comment_text": texts}, sets, f"[{','.join(names)}]"


@layout
def toxic_comments(draw: Random) -> Layout:
    columns, sets, target = toxic_columns(draw)
    names = target[1:-1].split(",")
    return Layout(
        {"train.csv": table({**columns, **indicators(sets, names)})},
        [
            f"task=multilabel data.path=train.csv data.target={target} data.text=[comment_text]",
            "data.exclude=[id]",
        ],
        [{*row} for row in sets],
        texts=["comment_text"],
        classes=names,
    )


@layout
def toxic_comments_without_settings(draw: Random) -> Layout:
    found = toxic_comments(Random("toxic_comments"))
    first = found.tries[0].replace(" data.text=[comment_text]", "")
    found.tries = [first, "data.exclude=[id] data.text=[comment_text]"]
    return found


@layout
def toxic_comments_with_test_labels(draw: Random) -> Layout:
    """Rows of the test file with -1 were not used for scoring."""
    columns, sets, target = toxic_columns(draw)
    names = target[1:-1].split(",")
    test, test_sets, _ = toxic_columns(draw)
    test["comment_text"] = [f"{text} again" for text in test["comment_text"]]
    test_labels = indicators(test_sets, names)
    scored = [None if row % 3 == 0 else set(labels) for row, labels in enumerate(test_sets)]
    test_labels = {
        n: [-1 if s is None else v for s, v in zip(scored, c, strict=True)] for n, c in test_labels.items()
    }
    return Layout(
        {
            "train.csv": table({**columns, **indicators(sets, names)}),
            "test.csv": table({**test, **test_labels}),
        },
        [
            f"task=multilabel data.path=train.csv data.test_path=test.csv data.target={target} data.text=[comment_text] "
            "data.exclude=[id]",
            "data.missing=-1",
        ],
        [set(row) for row in sets] + scored,
        texts=["comment_text"],
        classes=names,
        splits=[None] * 90 + ["test"] * 90,
    )


@layout
def otto_products(draw: Random) -> Layout:
    draw.rows = 120
    columns = {f"feat_{i}": draw.integers(0, 60) for i in range(1, 94)}
    labels = draw.choice([f"Class_{i}" for i in range(1, 10)])
    return Layout(
        {"train.csv": table({"id": range(1, 121), **columns, "target": labels})},
        ["task=multiclass data.path=train.csv data.target=target", "data.exclude=[id]"],
        labels,
        columns,
    )


def delimited(
    draw: Random,
    file: str,
    target: str,
    labels: list[Any],
    separator: str,
    tries: list[str],
    none: str | None = None,
    low: int = 1,
    high: int = 3,
    form: str = "{}",
    **options: Any,
) -> Layout:
    """Return a table of two numbers and a column with several labels."""
    sets = draw.sets(labels, low, high)
    columns = draw.numbers("mean", "std")
    cells = [form.format(separator.join(map(str, row))) if row or none is None else none for row in sets]
    return Layout(
        {file: table({**columns, target: cells})}, tries, [{*row} for row in sets], columns, **options
    )


TAGS = [
    "haze",
    "primary",
    "agriculture",
    "clear",
    "water",
    "habitation",
    "road",
    "cultivation",
    "slash_burn",
    "cloudy",
]
TAGS += [
    "partly_cloudy",
    "conventional_mine",
    "bare_ground",
    "artisinal_mine",
    "blooming",
    "selective_logging",
    "blow_down",
]


@layout
def satellite_tags(draw: Random) -> Layout:
    first = "task=multilabel data.path=train_v2.csv data.target=tags \"data.delimiter=' '\""
    return delimited(draw, "train_v2.csv", "tags", TAGS, " ", [first], high=6)


@layout
def satellite_tags_without_a_delimiter(draw: Random) -> Layout:
    tries = ["task=auto data.path=train_v2.csv data.target=tags", "task=multilabel \"data.delimiter=' '\""]
    return delimited(draw, "train_v2.csv", "tags", TAGS, " ", tries, high=6)


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
    columns = draw.numbers("red", "green")
    return Layout(
        {
            "train.csv": table(
                {"image": draw.names("{:x}.jpg"), **columns, "labels": [" ".join(sorted(s)) for s in sets]}
            )
        },
        [
            "task=multilabel data.path=train.csv data.target=labels \"data.delimiter=' '\"",
            "data.exclude=[image]",
        ],
        sets,
        columns,
    )


@layout
def protein_atlas(draw: Random) -> Layout:
    tries = ["task=multilabel data.path=train.csv data.target=Target \"data.delimiter=' '\""]
    return delimited(
        draw, "train.csv", "Target", [*range(28)], " ", tries, classes=[str(i) for i in range(28)]
    )


@layout
def protein_atlas_as_multiclass(draw: Random) -> Layout:
    tries = ["task=auto data.path=train.csv data.target=Target", "task=multilabel \"data.delimiter=' '\""]
    return delimited(
        draw, "train.csv", "Target", [*range(28)], " ", tries, classes=[str(i) for i in range(28)]
    )


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
    return Layout(
        {"goemotions_1.csv": table({**columns, "example_very_unclear": unclear, **indicators(sets, names)})},
        [
            "task=multilabel data.path=goemotions_1.csv data.target=[admiration,amusement,anger] data.text=[text] "
            "data.exclude=[id,rater_id]",
        ],
        [{*row} for row in sets],
        {"example_very_unclear": [int(cell == "True") for cell in unclear]},
        texts=["text"],
        classes=names,
    )


@layout
def stack_overflow_tags(draw: Random) -> Layout:
    names = ["python", "pandas", "c#", "c++", "node.js"]
    sets = draw.sets(names, 1)
    columns = {"Title": draw.sentences(6), "Tags": ["".join(f"<{tag}>" for tag in row) for row in sets]}
    return Layout(
        {"questions.csv": table(columns)},
        ["task=multilabel data.path=questions.csv data.target=Tags data.text=[Title]"],
        [{*row} for row in sets],
        texts=["Title"],
    )


@layout
def movie_genres(draw: Random) -> Layout:
    tries = [
        "task=multilabel data.path=movies.csv data.target=genres \"data.delimiter='|'\"",
        "\"data.no_label='(no genres listed)'\"",
    ]
    return delimited(
        draw,
        "movies.csv",
        "genres",
        ["Action", "Comedy", "Film-Noir", "IMAX"],
        "|",
        tries,
        "(no genres listed)",
        low=0,
    )


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


@layout
def arxiv(draw: Random) -> Layout:
    sets = draw.sets(["cs.LG", "cs.AI", "stat.ML", "cs.CV", "math.OC"], 1)
    rows = zip(draw.names("2101.{:05}"), draw.sentences(), sets, strict=True)
    lines = [json.dumps({"id": i, "abstract": text, "categories": " ".join(s)}) for i, text, s in rows]
    return Layout(
        {"arxiv.jsonl": "\n".join(lines).encode()},
        [
            "task=multilabel data.path=arxiv.jsonl data.target=categories data.text=[abstract] data.exclude=[id]",
            "\"data.delimiter=' '\"",
        ],
        [{*row} for row in sets],
        texts=["abstract"],
    )


@layout
def eur_lex_lists(draw: Random) -> Layout:
    sets = draw.sets(["100163", "2300", "4489", "191"])
    rows = zip(draw.names("32003R{:04}"), draw.sentences(), sets, strict=True)
    lines = [json.dumps({"celex_id": i, "text": text, "eurovoc_concepts": s}) for i, text, s in rows]
    return Layout(
        {"train.jsonl": "\n".join(lines).encode()},
        [
            "task=multilabel data.path=train.jsonl data.target=eurovoc_concepts data.text=[text]",
            "data.exclude=[celex_id]",
        ],
        [{*row} for row in sets],
        texts=["text"],
    )


@layout
def reuters(draw: Random) -> Layout:
    """One row for each pair of a document and a topic."""
    sets = draw.sets(["earn", "acq", "grain", "trade"], 1)
    rows = [
        (row, label, text)
        for row, (labels, text) in enumerate(zip(sets, draw.sentences(), strict=True))
        for label in labels
    ]
    columns = {
        "doc": [row[0] for row in rows],
        "topic": [row[1] for row in rows],
        "text": [row[2] for row in rows],
    }
    return Layout(
        {"reuters.csv": table(columns)},
        ["task=multilabel data.path=reuters.csv data.target=topic data.id=doc data.text=[text]"],
        [{*row} for row in sets],
        texts=["text"],
    )


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
    return Layout(
        {"diagnoses_icd.csv": table(dict(zip(names, zip(*rows, strict=True), strict=True)))},
        [
            "task=multilabel data.path=diagnoses_icd.csv data.target=icd_code data.id=hadm_id",
            "data.exclude=[seq_num]",
        ],
        [{*row} for row in sets],
        {"heart_rate": heart},
    )


@layout
def skin_lesions(draw: Random) -> Layout:
    lesions = [f"HAM_{row // 2:07}" for row in range(draw.rows)]
    labels = draw.choice(["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"])
    words = {
        "dx_type": draw.choice(["histo", "follow_up"]),
        "sex": draw.choice(["male", "female", "unknown"]),
    }
    age = {"age": draw.with_gaps(draw.integers(5, 85))}
    return Layout(
        {
            "HAM10000_metadata.csv": table(
                {"lesion_id": lesions, "image_id": draw.names("ISIC_{:07}"), "dx": labels, **words, **age}
            )
        },
        [
            "task=multiclass data.path=HAM10000_metadata.csv data.target=dx data.group=lesion_id",
            "data.exclude=[image_id]",
        ],
        labels,
        age,
        words,
        groups=lesions,
    )


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
    sets = draw.sets(["a b", "c, d", "e"])
    columns = draw.numbers("a", "b")
    return Layout(
        {"lists.csv": table({**columns, "tags": [str(row) for row in sets]})},
        ["task=multilabel data.path=lists.csv data.target=tags"],
        [{*s} for s in sets],
        columns,
    )


@layout
def python_lists_with_a_delimiter(draw: Random) -> Layout:
    found = python_lists(Random("python_lists"))
    found.tries = [f"{found.tries[0]} \"data.delimiter=','\""]
    return found


@layout
def json_lists(draw: Random) -> Layout:
    sets = draw.sets([1, 7, 30])
    columns = draw.numbers("a", "b")
    return Layout(
        {"lists.csv": table({**columns, "tags": [json.dumps(row) for row in sets]})},
        ["task=multilabel data.path=lists.csv data.target=tags"],
        [{*s} for s in sets],
        columns,
    )


@layout
def postgres_arrays(draw: Random) -> Layout:
    sets = draw.sets(["news", "sport", "tech"])
    columns = draw.numbers("a", "b")
    return Layout(
        {"lists.csv": table({**columns, "tags": ["{" + ",".join(row) + "}" for row in sets]})},
        ["task=multilabel data.path=lists.csv data.target=tags"],
        [{*s} for s in sets],
        columns,
    )


@layout
def comma_lists(draw: Random) -> Layout:
    tries = ["task=multilabel data.path=tags.csv data.target=tags", "\"data.delimiter=','\""]
    return delimited(draw, "tags.csv", "tags", ["news", "sport", "tech"], ", ", tries)


@layout
def semicolon_lists_with_empty_cells(draw: Random) -> Layout:
    tries = [
        "task=multilabel data.path=tags.csv data.target=tags \"data.delimiter=';'\"",
        "data.empty=negative",
    ]
    return delimited(draw, "tags.csv", "tags", ["news", "sport", "tech"], ";", tries, low=0)


@layout
def hashtags(draw: Random) -> Layout:
    tries = ["task=multilabel data.path=tags.csv data.target=tags", "\"data.delimiter=' '\""]
    return delimited(draw, "tags.csv", "tags", ["#news", "#sport", "#tech"], " ", tries)


@layout
def scene_paths(draw: Random) -> Layout:
    leaves = ["animal/cat", "animal/dog", "vehicle/car"]
    labels = draw.choice(leaves)
    columns = draw.numbers("a", "b")
    return Layout(
        {"paths.csv": table({**columns, "class": labels})},
        ["task=multilabel data.path=paths.csv data.target=class data.hierarchy=/"],
        [{label, label.partition("/")[0]} for label in labels],
        columns,
    )


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
