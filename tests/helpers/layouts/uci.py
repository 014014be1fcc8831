"""Tables of the UCI repository: without a header, with many separators and marks of missing cells."""

import gzip
from collections.abc import Mapping, Sequence
from typing import Any

from layouts.cases import Layout, Random, aligned, layout, numbered, rows_of, table, text

NO_HEADER = "data.header=false"
NO_ID = "\"data.exclude=['column 0']\""


def headless(
    task: str,
    file: str,
    columns: Mapping[str, Any],
    target: int,
    *tries: str,
    words: Sequence[int] = (),
    excluded: Sequence[int] = (),
    content: bytes | None = None,
    separator: str = ",",
    empty: str = "",
    **options: Any,
) -> Layout:
    """Return a file without a header.

    Args:
        task: The task.
        file: The name of the file.
        columns: Its columns.
        target: The position of the label.
        tries: Further settings of the first try, and those of the others.
        words: Positions of the categories; other columns are numbers.
        excluded: Positions of columns that are not features.
        content: The content, if it is not that of `table`.
        separator: Separator of columns.
        empty: Text of missing cells.
        options: Further arguments of `Layout`.
    """
    known = numbered(columns)
    labels = known.pop(f"column {target}")
    for position in excluded:
        known.pop(f"column {position}")
    categories = {name: known.pop(name) for name in (f"column {position}" for position in words)}
    if content is None:
        content = table(columns, separator, header=False, empty=empty)
    more, *others = tries or [""]
    first = f"task={task} data.path={file} \"data.target='column {target}'\" {NO_HEADER} {more}"
    return Layout({file: content}, [first, *others], labels, known, categories, **options)


def plain(
    draw: Random,
    file: str,
    numbers: int,
    values: Any,
    *tries: str,
    first: bool = False,
    separator: str = ",",
    task: str = "multiclass",
    extra: str = "",
    digits: int = 3,
    **options: Any,
) -> Layout:
    """Return a table of numbers with the class in the last or the first column."""
    labels = {"y": draw.choice(values)}
    columns = draw.numbers(*(f"x{i}" for i in range(numbers)), digits=digits)
    columns = labels | columns if first else columns | labels
    content = (text(columns, separator, header=False) + extra).encode()
    return headless(task, file, columns, 0 if first else numbers, *tries, content=content, **options)


def pixels(draw: Random, count: int, high: int, low: int = 0) -> dict[str, Any]:
    """Return columns of integers."""
    return {f"x{i}": draw.integers(low, high) for i in range(count)}


@layout
def adult(draw: Random) -> Layout:
    work = draw.choice(["Private", "Self-emp-not-inc", "?", "State-gov"])
    columns = {"age": draw.integers(17, 80), "work": work, "fnlwgt": draw.integers(10_000, 10**6)}
    columns |= {"school": draw.choice(["HS-grad", "11th", "Masters"]), "hours": draw.integers(1, 99)}
    columns["income"] = draw.choice(["<=50K", ">50K"])
    content = table(columns, ", ", header=False) + b"\n"
    positive = "\"data.positive='>50K'\""
    return headless("binary", "adult.data", columns, 5, "", positive, words=[1, 3], content=content)


@layout
def adult_without_the_header_setting(draw: Random) -> Layout:
    found = adult(Random("adult"))
    found.tries = [
        "task=binary data.path=adult.data data.target=income \"data.positive='>50K'\"",
        "data.header=false \"data.target='column 5'\"",
    ]
    return found


@layout
def iris(draw: Random) -> Layout:
    return plain(
        draw, "iris.data", 4, ["Iris-setosa", "Iris-versicolor", "Iris-virginica"], extra="\n\n", digits=1
    )


@layout
def wdbc(draw: Random) -> Layout:
    columns = {"id": [str(int(name) + 842_302) for name in draw.names("{:07}")], "y": draw.choice("MB")}
    columns |= draw.numbers(*(f"x{i}" for i in range(30)))
    settings = f"data.positive=M {NO_ID}"
    return headless("binary", "wdbc.data", columns, 1, settings, excluded=[0], classes=["B", "M"])


@layout
def wdbc_with_its_id(draw: Random) -> Layout:
    found = wdbc(Random("wdbc"))
    found.tries = [found.tries[0].replace(NO_ID, ""), NO_ID]
    return found


@layout
def breast_cancer_wisconsin(draw: Random) -> Layout:
    columns = {"id": draw.integers(61_634, 13_454_352), **pixels(draw, 8, 11, 1)}
    columns["bare"] = draw.with_gaps(draw.integers(1, 11))
    columns["y"] = draw.choice([2, 4])
    tries = [f"data.positive=4 {NO_ID}", "\"data.null_values=['?']\""]
    file = "breast-cancer-wisconsin.data"
    return headless("binary", file, columns, 10, *tries, excluded=[0], empty="?")


@layout
def letter_recognition(draw: Random) -> Layout:
    draw.rows = 260
    columns = {"y": draw.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), **pixels(draw, 16, 16)}
    return headless("multiclass", "letter-recognition.data", columns, 0)


@layout
def letter_recognition_without_settings(draw: Random) -> Layout:
    found = letter_recognition(Random("letter_recognition"))
    found.tries = [
        "task=multiclass data.path=letter-recognition.data data.target=T",
        "data.header=false \"data.target='column 0'\"",
    ]
    return found


@layout
def spambase(draw: Random) -> Layout:
    return plain(draw, "spambase.data", 57, [0, 1], task="binary")


@layout
def isolet(draw: Random) -> Layout:
    draw.rows = 260
    classes = [f"{i}." for i in range(1, 27)]
    return plain(draw, "isolet1+2+3+4.data", 617, classes, separator=", ", digits=4)


@layout
def har_arrays_in_text(draw: Random) -> Layout:
    """The labels are in another file, one per line."""
    columns = draw.numbers(*(f"x{i}" for i in range(20)))
    labels = draw.choice(range(1, 7))
    rows = [[f"{float(cell):.7e}" for cell in row] for row in rows_of(columns)]
    joined = aligned([[*row, label] for row, label in zip(rows, labels, strict=True)], 16)
    return Layout(
        {
            "X_train.txt": aligned(rows, 16),
            "y_train.txt": table({"y": labels}, header=False),
            "joined.txt": joined,
        },
        [
            "task=multiclass data.path=X_train.txt data.target=y_train.txt data.header=false",
            "data.path=joined.txt \"data.target='column 20'\"",
        ],
        labels,
        numbered(columns),
    )


@layout
def secom(draw: Random) -> Layout:
    """Blank separated, with NaN, a constant column, and a label of -1 or 1."""
    columns = draw.numbers(*(f"x{i}" for i in range(30)))
    columns["x3"] = draw.with_gaps(columns["x3"])
    columns |= {"x5": [100] * draw.rows, "y": draw.choice([-1, 1])}
    tries = ["data.positive=1", "data.nan=missing"]
    options = {"separator": " ", "empty": "NaN", "warnings": ["constant_feature"]}
    return headless("binary", "secom.data", columns, 30, *tries, excluded=[5], **options)


@layout
def covertype(draw: Random) -> Layout:
    draw.rows = 140
    columns = pixels(draw, 10, 3000) | {f"soil{i}": draw.integers(0, 2) for i in range(44)}
    columns["y"] = draw.choice(range(1, 8))
    content = gzip.compress(table(columns, header=False), mtime=0)
    return headless("multiclass", "covtype.data.gz", columns, 54, content=content)


@layout
def mushroom(draw: Random) -> Layout:
    columns = {f"x{i}": draw.choice("abcdx") for i in range(20)} | {"root": draw.choice("bcer?")}
    columns = {"y": draw.choice("pe"), **columns}
    tries, words = ["", "data.positive=p"], range(1, 22)
    return headless("binary", "agaricus-lepiota.data", columns, 0, *tries, words=words, classes=["e", "p"])


@layout
def bank_marketing(draw: Random) -> Layout:
    columns = {"age": draw.integers(18, 90), "job": draw.choice(["admin.", "blue-collar", "unknown"])}
    columns |= {"balance": draw.integers(-900, 9000), "day": draw.integers(1, 32)}
    columns |= {"month": draw.choice(["may", "jun", "jul", "oct"]), "pdays": draw.integers(-1, 400)}
    labels = draw.choice(["no", "yes"])
    content = table({**columns, "y": labels}, ";")
    quoted = "\n".join(
        ";".join(cell if cell.lstrip("-").isdecimal() else f'"{cell}"' for cell in line.split(";"))
        for line in content.decode().splitlines()
    )
    categories = {name: columns.pop(name) for name in ("job", "month")}
    return Layout(
        {"bank-full.csv": quoted.encode()},
        ["task=binary data.path=bank-full.csv data.target=y"],
        labels,
        columns,
        categories,
    )


@layout
def wine_quality(draw: Random) -> Layout:
    draw.rows = 120
    columns = draw.numbers("fixed acidity", "volatile acidity", "citric acid", "pH", "alcohol")
    labels = draw.choice(range(3, 9))
    return Layout(
        {"winequality-red.csv": table({**columns, "quality": labels}, ";", quote_all=False)},
        ["task=multiclass data.path=winequality-red.csv data.target=quality task.ordinal=true"],
        labels,
        columns,
    )


@layout
def wine(draw: Random) -> Layout:
    return plain(draw, "wine.data", 13, [1, 2, 3], first=True)


@layout
def poker_hand(draw: Random) -> Layout:
    draw.rows = 120
    columns = pixels(draw, 10, 14, 1) | {"y": draw.choice(range(10))}
    return headless("multiclass", "poker-hand-training-true.data", columns, 10)


@layout
def kdd99(draw: Random) -> Layout:
    columns = {"duration": draw.integers(0, 999), "protocol": draw.choice(["tcp", "udp", "icmp"])}
    columns |= {"service": draw.choice(["http", "smtp", "ecr_i"]), "flag": draw.choice(["SF", "S0"])}
    columns |= draw.numbers(*(f"x{i}" for i in range(37)), digits=2)
    columns["y"] = draw.choice(["normal.", "smurf.", "neptune."])
    return headless("multiclass", "kddcup.data_10_percent", columns, 41, words=[1, 2, 3])


@layout
def kdd99_compressed(draw: Random) -> Layout:
    found = kdd99(Random("kdd99"))
    (content,) = found.files.values()
    found.files = {"kddcup.data_10_percent.gz": gzip.compress(content, mtime=0)}
    found.tries = [found.tries[0].replace("_percent", "_percent.gz")]
    return found


@layout
def nsl_kdd(draw: Random) -> Layout:
    found = kdd99(Random("kdd99"))
    (content,) = found.files.values()
    difficulty = draw.integers(1, 22)
    lines = [f"{line},{level}" for line, level in zip(content.decode().split(), difficulty, strict=True)]
    found.files = {"KDDTrain+.txt": ("\n".join(lines) + "\n").encode()}
    found.numbers = {**found.numbers, "column 42": difficulty}
    found.tries = [found.tries[0].replace("kddcup.data_10_percent", "KDDTrain+.txt")]
    return found


@layout
def german_credit(draw: Random) -> Layout:
    columns = {"status": draw.choice(["A11", "A12", "A14"]), "months": draw.integers(4, 72)}
    columns |= {"history": draw.choice(["A30", "A34"]), "amount": draw.integers(250, 18_000)}
    columns["y"] = draw.choice([1, 2])
    tries = ["", "data.positive=2"]
    return headless("binary", "german.data", columns, 4, *tries, words=[0, 2], separator=" ")


@layout
def german_credit_numeric(draw: Random) -> Layout:
    columns = pixels(draw, 24, 90) | {"y": draw.choice([1, 2])}
    content = aligned(rows_of(columns), 4)
    return headless("binary", "german.data-numeric", columns, 24, "data.positive=2", content=content)


@layout
def abalone(draw: Random) -> Layout:
    draw.rows = 200
    columns = {"sex": draw.choice("MFI"), **draw.numbers("length", "weight")}
    columns["rings"] = draw.choice(range(4, 20))
    return headless("multiclass", "abalone.data", columns, 3, words=[0])


@layout
def cleveland_heart(draw: Random) -> Layout:
    columns = draw.numbers("age", "sex", "cp", digits=1)
    columns |= {"ca": draw.with_gaps(draw.choice(["0.0", "1.0", "2.0"])), "y": draw.choice(range(5))}
    tries = ["", "\"data.null_values=['?']\""]
    return headless("multiclass", "processed.cleveland.data", columns, 4, *tries, empty="?")


@layout
def ecoli(draw: Random) -> Layout:
    names = draw.names("AAT_{}_ECOLI")
    columns = draw.numbers("mcg", "gvh", "lip", digits=2)
    labels = draw.choice(["cp", "im", "pp", "om"])
    known = numbered(columns, 1)
    content = aligned(rows_of({"n": names, **columns, "y": labels}), 18)
    lines = b"".join(line.lstrip() for line in content.splitlines(keepends=True))
    return Layout(
        {"ecoli.data": lines},
        [
            "task=multiclass data.path=ecoli.data \"data.target='column 4'\" data.header=false",
            "\"data.exclude=['column 0']\"",
        ],
        labels,
        known,
    )


@layout
def glass(draw: Random) -> Layout:
    columns = {"id": [*range(1, draw.rows + 1)], **draw.numbers("RI", "Na")}
    columns["y"] = draw.choice([1, 2, 3, 5, 6, 7])
    return headless("multiclass", "glass.data", columns, 3, "", NO_ID, excluded=[0])


@layout
def ionosphere(draw: Random) -> Layout:
    classes = ["b", "g"]
    return plain(draw, "ionosphere.data", 34, "gb", "data.positive=g", task="binary", classes=classes)


@layout
def sonar(draw: Random) -> Layout:
    tries, classes = ["", "data.positive=M"], ["R", "M"]
    return plain(draw, "sonar.all-data", 60, "RM", *tries, task="binary", digits=4, classes=classes)


@layout
def car_evaluation(draw: Random) -> Layout:
    columns = {"price": draw.choice(["vhigh", "high", "low"]), "doors": draw.choice(["2", "3", "5more"])}
    columns |= {"persons": draw.choice(["2", "4", "more"]), "y": draw.choice(["unacc", "acc", "good"])}
    tries = ["", "\"data.categorical=['column 1','column 2']\""]
    return headless("multiclass", "car.data", columns, 3, *tries, words=[0, 1, 2])


@layout
def satellite(draw: Random) -> Layout:
    columns = pixels(draw, 36, 140, 40) | {"y": draw.choice([1, 2, 3, 4, 5, 7])}
    found = headless("multiclass", "sat.trn", columns, 36, separator=" ")
    found.files |= {"sat.tst": found.files["sat.trn"].replace(b"1", b"2")}
    return found


@layout
def optdigits(draw: Random) -> Layout:
    columns = pixels(draw, 64, 17) | {"y": draw.choice(range(10))}
    test = {name: draw.integers(0, 17) for name in columns} | {"y": draw.choice(range(10))}
    both = {name: columns[name] + test[name] for name in columns}
    settings, splits = "data.test_path=optdigits.tes", [None] * 90 + ["test"] * 90
    found = headless("multiclass", "optdigits.tra", both, 64, settings, splits=splits)
    names = {"optdigits.tra": columns, "optdigits.tes": test}
    found.files = {file: table(part, header=False) for file, part in names.items()}
    return found


@layout
def seeds(draw: Random) -> Layout:
    """Some columns are separated by two tabs."""
    columns = draw.numbers("area", "perimeter", "length") | {"y": draw.choice([1, 2, 3])}
    lines = ["\t".join(row) for row in rows_of(columns)]
    lines = [line.replace("\t", "\t\t", 1) if i % 7 == 3 else line for i, line in enumerate(lines)]
    content = ("\n".join(lines) + "\n").encode()
    return headless("multiclass", "seeds_dataset.txt", columns, 3, content=content)


@layout
def horse_colic(draw: Random) -> Layout:
    columns: dict[str, Any] = {"surgery": draw.with_gaps(draw.integers(1, 3)), "age": draw.integers(1, 10)}
    columns |= {"hospital": draw.integers(500_000, 540_000), "pulse": draw.with_gaps(draw.integers(30, 180))}
    columns["y"] = draw.with_gaps(draw.choice([1, 2, 3]), 0.05)
    content = b"".join(line + b" \n" for line in table(columns, " ", header=False, empty="?").splitlines())
    tries = ["\"data.missing='?'\"", "\"data.null_values=['?']\""]
    return headless("multiclass", "horse-colic.data", columns, 4, *tries, content=content)


@layout
def automobiles(draw: Random) -> Layout:
    classes = [-2, -1, 0, 1, 2, 3]
    columns: dict[str, Any] = {"y": draw.choice(classes), "losses": draw.with_gaps(draw.integers(65, 256))}
    columns["make"] = draw.choice(["audi", "bmw", "mazda"])
    columns["doors"] = draw.with_gaps(draw.choice(["two", "four"]), 0.05)
    columns |= draw.numbers("base", "length", digits=2)
    tries = ["\"data.null_values=['?']\"", "+task.class_names=[-2,-1,0,1,2,3]"]
    options = {"words": [2, 3], "empty": "?", "classes": [*map(str, classes)]}
    return headless("multiclass", "imports-85.data", columns, 0, *tries, **options)


@layout
def magic_gamma(draw: Random) -> Layout:
    settings, classes = "data.positive=g", ["h", "g"]
    return plain(draw, "magic04.data", 10, "gh", settings, task="binary", digits=4, classes=classes)


@layout
def higgs(draw: Random) -> Layout:
    columns = draw.numbers(*(f"x{i}" for i in range(28)))
    labels = draw.choice([0, 1])
    rows = [[f"{float(cell):.18e}" for cell in row] for row in rows_of({"y": labels, **columns})]
    content = "".join(",".join(row) + "\n" for row in rows).encode()
    return Layout(
        {"HIGGS.csv.gz": gzip.compress(content, mtime=0)},
        ["task=binary data.path=HIGGS.csv.gz data.header=false \"data.target='column 0'\""],
        [f"{label:.18e}" for label in labels],
        numbered(columns, 1),
    )


@layout
def shuttle(draw: Random) -> Layout:
    return plain(draw, "shuttle.trn", 9, [1, 4, 5], separator=" ", digits=0)


@layout
def census_income(draw: Random) -> Layout:
    classes = ["- 50000.", "50000+."]
    columns = {"age": draw.integers(0, 90), "work": draw.choice(["Not in universe", "Private"])}
    columns |= {"wage": draw.integers(0, 9999), "y": draw.choice(classes)}
    options = {"words": [1], "separator": ", ", "classes": classes}
    positive = "\"data.positive='50000+.'\""
    return headless("binary", "census-income.data", columns, 3, "", positive, **options)


@layout
def sms_spam(draw: Random) -> Layout:
    """No suffix, tabs, and quotation marks that are not closed."""
    texts = draw.sentences()
    texts = [f'"{line}' if row % 9 == 4 else line for row, line in enumerate(texts)]
    labels = draw.choice(["ham", "spam"])
    content = "".join(f"{label}\t{line}\n" for label, line in zip(labels, texts, strict=True))
    return Layout(
        {"SMSSpamCollection": content.encode()},
        [
            "task=binary data.path=SMSSpamCollection data.header=false \"data.target='column 0'\" data.positive=spam \"data.text=['column 1']\"",
            "data.quote=none",
        ],
        labels,
        texts=["column 1"],
    )


@layout
def pen_digits(draw: Random) -> Layout:
    columns = pixels(draw, 16, 100) | {"y": draw.choice(range(10))}
    lines = "\n".join(",".join(f"{cell:>3}" for cell in row) for row in rows_of(columns))
    return headless("multiclass", "pendigits.tra", columns, 16, content=lines.encode())


@layout
def diabetes_130_hospitals(draw: Random) -> Layout:
    patients = [100 + row // 3 * 7919 % 5000 for row in range(draw.rows)]
    columns = {
        "race": draw.choice(["Caucasian", "Other", "?"]),
        "age": draw.choice(["[0-10)", "[10-20)", "[70-80)"]),
    }
    numbers = {"time_in_hospital": draw.integers(1, 14), "num_medications": draw.integers(1, 80)}
    labels = draw.choice(["NO", "<30", ">30"])
    content = table(
        {
            "encounter_id": draw.integers(10**6, 10**8),
            "patient_nbr": patients,
            **columns,
            **numbers,
            "readmitted": labels,
        }
    )
    return Layout(
        {"diabetic_data.csv": content},
        [
            "task=multiclass data.path=diabetic_data.csv data.target=readmitted data.exclude=[encounter_id]",
            "data.group=patient_nbr",
        ],
        labels,
        numbers,
        columns,
        groups=patients,
        classes=["<30", ">30", "NO"],
    )
