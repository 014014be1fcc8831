"""Formats of files, and text as programs write it."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from functools import partial
from typing import Any

import numpy as np
import polars as pl

from layouts.cases import Layout, Random, indicators, labelled, layout, numbered, rows_of, table, text

BASE = "task=multiclass data.target=species data.path="
DECIMAL = "\"data.decimal=','\""
SPECIES = ["setosa", "versicolor", "virginica"]


def simple(draw: Random, file: str, write: Any, *tries: str, **options: Any) -> Layout:
    """Return a table of two numbers and a class; `write` returns the bytes of its columns."""
    numbers = draw.numbers("length", "width")
    columns = {**numbers, "species": draw.choice(SPECIES)}
    return labelled(file, columns, "species", *tries, write=write, numbers=numbers, **options)


def frame(write: str, columns: dict[str, Any], **options: Any) -> bytes:
    output = io.BytesIO()
    getattr(pl.DataFrame(columns), write)(output, **options)
    return output.getvalue()


def zipped(content: bytes, name: str) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), content)
    return output.getvalue()


def with_lines(*lines: str) -> Any:
    return lambda columns: ("\n".join(lines) + "\n").encode() + table(columns)


@layout
def gzip_file(draw: Random) -> Layout:
    return simple(draw, "iris.csv.gz", lambda c: gzip.compress(table(c), mtime=0))


@layout
def bzip2_file(draw: Random) -> Layout:
    return simple(draw, "iris.csv.bz2", lambda c: bz2.compress(table(c)))


@layout
def xz_file(draw: Random) -> Layout:
    return simple(draw, "iris.tsv.xz", lambda c: lzma.compress(table(c, "\t")))


@layout
def zip_file(draw: Random) -> Layout:
    return simple(draw, "iris.zip", lambda c: zipped(table(c), "data/iris.csv"))


@layout
def zstd_file(draw: Random) -> Layout:
    return simple(draw, "iris.csv.zst", lambda c: frame("write_csv", c, compression="zstd"))


@layout
def gzip_file_called_csv(draw: Random) -> Layout:
    found = gzip_file(Random("gzip_file"))
    (content,) = found.files.values()
    found.files = {"iris.csv": content, "iris.csv.gz": content}
    found.tries = [f"{BASE}iris.csv", "data.path=iris.csv.gz"]
    return found


@layout
def excel_file(draw: Random) -> Layout:
    return simple(draw, "iris.xlsx", lambda c: frame("write_excel", c))


@layout
def feather_file(draw: Random) -> Layout:
    return simple(draw, "iris.feather", lambda c: frame("write_ipc", c))


@layout
def json_records(draw: Random) -> Layout:
    return simple(draw, "train.json", lambda c: json.dumps(pl.DataFrame(c).to_dicts(), indent=1).encode())


@layout
def json_lines_called_json(draw: Random) -> Layout:
    return simple(draw, "train.json", lambda c: frame("write_ndjson", c))


def with_lists(draw: Random, file: str, write: str) -> Layout:
    sets, numbers = draw.sets(["news", "sport"]), draw.numbers("a", "b")
    truth = {"labels": [{*row} for row in sets], "numbers": numbers, "write": partial(frame, write)}
    return labelled(file, {**numbers, "tags": sets}, "tags", task="multilabel", **truth)


@layout
def json_lines_with_lists(draw: Random) -> Layout:
    return with_lists(draw, "train.jsonl", "write_ndjson")


@layout
def parquet_lists(draw: Random) -> Layout:
    return with_lists(draw, "train.parquet", "write_parquet")


@layout
def parquet_types(draw: Random) -> Layout:
    """Dictionary, nullable integer and boolean, decimal, and a label that is a dictionary."""
    labels = draw.choice(SPECIES)
    ints, flags = draw.with_gaps(draw.integers(0, 50)), draw.with_gaps(draw.choice([True, False]))
    colours, prices = draw.with_gaps(draw.choice(["red", "blue"])), draw.numbers("p", digits=2)["p"]
    columns = pl.DataFrame(
        {
            "n": pl.Series(ints, dtype=pl.Int64),
            "flag": pl.Series(flags, dtype=pl.Boolean),
            "colour": pl.Series(colours, dtype=pl.Categorical),
            "price": pl.Series(prices).cast(pl.Decimal(10, 2)),
            "species": pl.Series(labels, dtype=pl.Categorical),
        }
    )
    numbers = {"n": ints, "flag": flags, "price": prices}
    return Layout(
        {"types.parquet": frame("write_parquet", columns.to_dict())},
        [f"{BASE}types.parquet"],
        labels,
        numbers,
        {"colour": colours},
    )


@layout
def hugging_face_folder(draw: Random) -> Layout:
    columns, labels = {"text": draw.sentences()}, draw.choice([0, 1, 2])
    rows = pl.DataFrame({**columns, "label": labels})
    test = pl.DataFrame({"text": [f"{line} again" for line in columns["text"]], "label": labels})
    parts = {"data/train-00000-of-00002.parquet": rows[:45], "data/train-00001-of-00002.parquet": rows[45:]}
    parts["data/test-00000-of-00001.parquet"] = test
    return Layout(
        {name: frame("write_parquet", part.to_dict()) for name, part in parts.items()},
        [
            "task=multiclass \"data.path='data/train-*.parquet'\" \"data.test_path='data/test-*.parquet'\" data.target=label data.text=[text]"
        ],
        labels * 2,
        texts=["text"],
        splits=[None] * 90 + ["test"] * 90,
    )


@layout
def byte_order_mark_and_crlf(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: b"\xef\xbb\xbf" + text(c, end="\r\n").encode())


@layout
def mac_line_ends(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: text(c, end="\r").encode())


@layout
def utf_16(draw: Random) -> Layout:
    """As Excel saves "Unicode text"."""
    return simple(
        draw, "iris.txt", lambda c: text(c, "\t", end="\r\n").encode("utf-16"), "", "data.encoding=utf-16"
    )


def european(draw: Random, encoding: str, *tries: str, prefix: str = "") -> Layout:
    numbers = draw.numbers("Länge", "Preis")
    words = {"Stadt": draw.choice(["Köln", "Zürich", "Graz"])}
    labels = draw.choice(["schlecht", "gut"])
    commas = {name: [str(value).replace(".", ",") for value in values] for name, values in numbers.items()}
    truth = {"numbers": numbers, "categories": words, "classes": ["schlecht", "gut"]}
    truth["write"] = lambda columns: (prefix + text(columns, ";", end="\r\n")).encode(encoding)
    columns, positive = {**commas, **words, "Urteil": labels}, f"data.positive=gut {tries[0]}"
    return labelled("daten.csv", columns, "Urteil", positive, *tries[1:], task="binary", **truth)


@layout
def german_decimals(draw: Random) -> Layout:
    return european(draw, "utf-8", "", DECIMAL)


@layout
def excel_csv(draw: Random) -> Layout:
    return european(draw, "cp1252", DECIMAL, "data.encoding=cp1252", prefix="sep=;\r\n")


@layout
def latin_1(draw: Random) -> Layout:
    return european(draw, "latin-1", f"{DECIMAL} data.encoding=latin-1")


@layout
def pandas_index(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: table({"": range(draw.rows), **c}), warnings=["index_column"])


@layout
def pandas_index_of_joined_tables(draw: Random) -> Layout:
    """The index of pandas.concat counts 0 to 44 twice."""
    return simple(draw, "iris.csv", lambda c: table({"": [*range(45)] * 2, **c}), warnings=["index_column"])


@layout
def pandas_index_of_a_sample(draw: Random) -> Layout:
    return simple(
        draw,
        "iris.csv",
        lambda c: table({"": sorted(draw.rng.permutation(5000)[:90].tolist()), **c}),
        warnings=["index_column"],
    )


@layout
def pandas_named_index(draw: Random) -> Layout:
    return simple(
        draw,
        "iris.csv",
        lambda c: table({"Unnamed: 0": range(draw.rows), **c}),
        "",
        "\"data.exclude=['Unnamed: 0']\"",
    )


def r_table(draw: Random, file: str, separator: str, first: list[str]) -> Layout:
    def write(columns: Any) -> bytes:
        lines = [separator.join(f'"{name}"' for name in [*first, *columns])]
        rows = enumerate(rows_of(columns), 1)
        lines += [separator.join([f'"{i}"', *row[:2], f'"{row[2]}"']) for i, row in rows]
        return ("\n".join(lines) + "\n").encode()

    return simple(draw, file, write, warnings=["index_column"])


@layout
def r_write_csv(draw: Random) -> Layout:
    return r_table(draw, "iris.csv", ",", [""])


@layout
def r_write_table(draw: Random) -> Layout:
    """The header lacks the name of the first column."""
    return r_table(draw, "iris.txt", " ", [])


@layout
def r_row_names(draw: Random) -> Layout:
    """Names of rows that are text, as of mtcars."""
    names = draw.names("Mazda RX{}")
    return simple(draw, "cars.csv", lambda c: table({"": names, **c}), "", "\"data.exclude=['column 0']\"")


@layout
def trailing_separators(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: table({**c, "": [""] * draw.rows}))


@layout
def comments(draw: Random) -> Layout:
    return simple(
        draw, "iris.csv", with_lines("# Iris data", "# R. A. Fisher, 1936", ""), "", "\"data.comment='#'\""
    )


@layout
def percent_comments(draw: Random) -> Layout:
    return simple(draw, "iris.csv", with_lines("% Iris data"), "\"data.comment='%'\"")


def savetxt(draw: Random, file: str, *tries: str, form: str = "%.3f", **options: Any) -> Layout:
    """Return a file of `numpy.savetxt` with the given options."""
    numbers = draw.numbers("a", "b")
    columns = {**numbers, "y": draw.choice([0, 1, 2])}
    output = io.StringIO()
    np.savetxt(output, np.column_stack([*columns.values()]), fmt=form, **options)
    labels = [form % label for label in columns["y"]]
    write: Any = lambda _: output.getvalue().encode()  # noqa: E731
    return labelled(file, columns, "y", *tries, write=write, labels=labels, numbers=numbers)


@layout
def numpy_savetxt(draw: Random) -> Layout:
    found = savetxt(draw, "data.txt", form="%.18e")
    found.tries = ["task=multiclass data.path=data.txt data.header=false \"data.target='column 2'\""]
    found.numbers = numbered(found.numbers)
    return found


@layout
def numpy_savetxt_with_a_header(draw: Random) -> Layout:
    return savetxt(draw, "data.txt", header="a b y")


@layout
def numpy_savetxt_with_a_csv_header(draw: Random) -> Layout:
    tries = ["", "\"data.comment='#'\""]
    return savetxt(draw, "data.csv", *tries, header="written by numpy\na,b,y", delimiter=",")


@layout
def blanks_before_names(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: table(c, ", "))


@layout
def quoted_numbers(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: text(c, quote_all=True).encode())


@layout
def vertical_bars(draw: Random) -> Layout:
    return simple(draw, "iris.txt", lambda c: table(c, "|"))


@layout
def semicolons_in_a_csv(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: table(c, ";"))


@layout
def tabs_in_a_csv(draw: Random) -> Layout:
    return simple(draw, "iris.csv", lambda c: table(c, "\t"))


@layout
def thousands_separators(draw: Random) -> Layout:
    columns, labels = {"sales": draw.integers(1000, 90_000)}, draw.choice(SPECIES)
    written = {"sales": [f"{value:,}" for value in columns["sales"]]}
    return Layout(
        {"sales.csv": table({**written, **draw.numbers("a"), "species": labels})},
        [f"{BASE}sales.csv"],
        labels,
        pending="numbers with separators have to be converted",
    )


@layout
def arff_of_openml(draw: Random) -> Layout:
    numbers, words = (
        draw.numbers("sepal length"),
        {"job": draw.with_gaps(draw.choice(["blue collar", "admin"]))},
    )
    labels = draw.choice(["<=50K", ">50K"])
    lines = [
        "% OpenML",
        "@relation adult",
        "@attribute 'sepal length' real",
        "@attribute job {'blue collar', admin}",
    ]
    lines += ["@attribute class {'<=50K', '>50K'}", "@data"]
    rows = zip(numbers["sepal length"], words["job"], labels, strict=True)
    lines += [
        ",".join([str(n), "?" if w is None else f"'{w}'" if " " in w else w, f"'{c}'"]) for n, w, c in rows
    ]
    return Layout(
        {"adult.arff": "\n".join(lines).encode()},
        ["task=binary data.path=adult.arff data.target=class \"data.positive='>50K'\""],
        labels,
        numbers,
        words,
    )


def mulan(draw: Random, sparse: bool) -> Layout:
    names = ["amazed-suprised", "happy-pleased", "sad-lonely"]
    sets, columns = draw.sets(names), draw.numbers("Mean_Acc1298", "Std_Acc1298")
    columns["Std_Acc1298"] = [0.0 if row % 3 else value for row, value in enumerate(columns["Std_Acc1298"])]
    cells = {**columns, **indicators(sets, names)}
    lines = ["@relation 'music: -C 3'", *(f"@attribute {name} numeric" for name in columns)]
    lines += [*(f"@attribute {name} {{0,1}}" for name in names), "@data"]
    for row in rows_of(cells):
        entries = [f"{i} {cell}" for i, cell in enumerate(row) if cell not in ("0", "0.0")]
        lines.append("{" + ",".join(entries) + "}" if sparse else ",".join(row))
    labels = "".join(f'<label name="{name}"></label>' for name in names)
    return Layout(
        {"emotions.arff": "\n".join(lines).encode(), "emotions.xml": f"<labels>{labels}</labels>".encode()},
        [f"task=multilabel data.path=emotions.arff data.target=[{','.join(names)}]"],
        [{*s} for s in sets],
        columns,
        classes=names,
    )


@layout
def mulan_arff(draw: Random) -> Layout:
    return mulan(draw, sparse=False)


@layout
def mulan_sparse_arff(draw: Random) -> Layout:
    return mulan(draw, sparse=True)


@layout
def libsvm(draw: Random) -> Layout:
    labels = draw.choice([1, 2, 3])
    lines = [f"{label} 1:0.5 {2 + row % 3}:{row / 7:.3f}" for row, label in enumerate(labels)]
    return Layout(
        {"news20.libsvm": "\n".join(lines).encode()},
        ["task=multiclass data=arrays data.path=news20.libsvm"],
        labels,
    )


@layout
def libsvm_multilabel(draw: Random) -> Layout:
    sets = draw.sets([0, 1, 2, 3], 1)
    lines = [f"{','.join(map(str, s))} 1:0.5 {2 + row % 3}:{row / 7:.3f}" for row, s in enumerate(sets)]
    return Layout(
        {"rcv1.svm": "\n".join(lines).encode()},
        ["task=multilabel data=arrays data.path=rcv1.svm"],
        [{*s} for s in sets],
        classes=[*"0123"],
    )


@layout
def extreme_classification(draw: Random) -> Layout:
    sets = draw.sets([0, 1, 2, 3], 1)
    lines = [f"{draw.rows} 6 4"]
    lines += [f"{','.join(map(str, s))} 0:0.5 {1 + row % 5}:{row / 7:.3f}" for row, s in enumerate(sets)]
    return Layout(
        {"train.txt": "\n".join(lines).encode()},
        ["task=multilabel data=arrays data.path=train.txt"],
        [{*s} for s in sets],
        classes=[*"0123"],
    )


@layout
def sparse_npz(draw: Random) -> Layout:
    from scipy import sparse

    output, labels = io.BytesIO(), draw.choice([0, 1, 2])
    matrix = sparse.random(draw.rows, 20, 0.2, "csr", random_state=0)
    sparse.save_npz(output, matrix)
    target = io.BytesIO()
    np.save(target, np.array(labels))
    return Layout(
        {"X.npz": output.getvalue(), "y.npy": target.getvalue()},
        ["task=multiclass data=arrays data.path=X.npz data.target=y.npy"],
        labels,
    )


def arrays(draw: Random) -> tuple[np.ndarray, dict[str, Any]]:
    columns = draw.numbers("x0", "x1", "x2")
    return np.column_stack([*columns.values()]), columns


def saved(**arrays: Any) -> bytes:
    output = io.BytesIO()
    np.savez(output, **arrays)
    return output.getvalue()


@layout
def npz_one_hot(draw: Random) -> Layout:
    labels = draw.choice([0, 1, 2])
    inputs, columns = arrays(draw)
    content = saved(X=inputs, Y=np.eye(3)[labels])
    return Layout(
        {"d.npz": content},
        ["task=multiclass data=arrays data.path=d.npz"],
        np.eye(3)[labels].tolist(),
        columns,
        classes=[*"012"],
    )


@layout
def npz_with_two_splits(draw: Random) -> Layout:
    labels = draw.choice([0, 1, 2])
    inputs, columns = arrays(draw)
    cut = len(labels) - 30
    content = saved(X_train=inputs[:cut], y_train=labels[:cut], X_test=inputs[cut:], y_test=labels[cut:])
    return Layout(
        {"d.npz": content},
        ["task=multiclass data=arrays data.path=d.npz"],
        labels,
        columns,
        splits=[None] * cut + ["test"] * 30,
    )


@layout
def mnist_csv(draw: Random) -> Layout:
    columns = {"label": draw.choice(range(10))}
    pixels = {f"pixel{i}": draw.integers(0, 256) for i in range(784)}
    return labelled("mnist_train.csv", {**columns, **pixels}, "label", numbers=pixels)


@layout
def mnist_csv_without_a_header(draw: Random) -> Layout:
    labels = draw.choice(range(10))
    pixels = {f"column {i}": draw.integers(0, 256) for i in range(1, 785)}
    content = table({"label": labels, **pixels}, header=False)
    return Layout(
        {"mnist_train.csv": content},
        [
            "task=multiclass data.path=mnist_train.csv data.target=label",
            "data.header=false \"data.target='column 0'\"",
        ],
        labels,
        pixels,
    )


@layout
def ag_news(draw: Random) -> Layout:
    labels, texts = draw.choice("1234"), draw.sentences()
    content = text(
        {"y": labels, "title": [f"{line} (Reuters)" for line in texts], "text": texts},
        header=False,
        quote_all=True,
    )
    return Layout(
        {"train.csv": content.encode()},
        [
            "task=multiclass data.path=train.csv data.header=false \"data.target='column 0'\" \"data.text=['column 1','column 2']\""
        ],
        labels,
        texts=["column 1", "column 2"],
    )


@layout
def cola(draw: Random) -> Layout:
    """No header, an empty column, and quotation marks that are part of the text."""
    labels, texts = draw.choice([0, 1]), draw.sentences()
    texts = [f'"{line}' if row % 8 == 0 else line for row, line in enumerate(texts)]
    lines = [
        f"gj04\t{label}\t{'*' if label == 0 else ''}\t{line}"
        for label, line in zip(labels, texts, strict=True)
    ]
    return Layout(
        {"train.tsv": ("\n".join(lines) + "\n").encode()},
        [
            "task=binary data.path=train.tsv data.header=false \"data.target='column 1'\" \"data.text=['column 3']\" "
            "\"data.exclude=['column 2']\"",
            "data.quote=none",
        ],
        labels,
        texts=["column 3"],
        warnings=["constant_feature"],
    )


@layout
def sentiment140(draw: Random) -> Layout:
    labels, texts = draw.choice("04"), [f"{line} café" for line in draw.sentences()]
    dates = [f"Mon Apr 06 22:{row % 60:02}:45 PDT 2009" for row in range(draw.rows)]
    columns = {
        "y": labels,
        "id": draw.names("14678{:05}"),
        "date": dates,
        "query": ["NO_QUERY"] * draw.rows,
        "text": texts,
    }
    return Layout(
        {"training.csv": text(columns, header=False, quote_all=True).encode("latin-1")},
        [
            "task=binary data.path=training.csv data.header=false \"data.target='column 0'\" data.positive=4 "
            "\"data.text=['column 4']\" \"data.exclude=['column 1','column 2','column 3']\"",
            "data.encoding=cp1252",
        ],
        labels,
        texts=["column 4"],
    )


@layout
def news_category(draw: Random) -> Layout:

    columns = {"link": draw.names("https://www.example.org/{}")}
    labels = draw.choice(["POLITICS", "WELLNESS", "TRAVEL"])
    columns |= {"headline": draw.sentences(), "category": labels}
    columns["date"] = [f"2018-05-{1 + row % 26:02}" for row in range(draw.rows)]
    tries, truth = ["data.text=[headline]", "data.exclude=[link]"], {"dates": ["date"], "texts": ["headline"]}
    write, file = partial(frame, "write_ndjson"), "News_Category_Dataset_v3.json"
    return labelled(file, columns, "category", *tries, write=write, **truth)


@layout
def reviews(draw: Random) -> Layout:
    """Stars are floats in JSON."""
    labels, texts = draw.choice([1, 2, 3, 4, 5]), draw.sentences()
    rows = [
        {"stars": float(label), "useful": row % 7, "text": line}
        for row, (label, line) in enumerate(zip(labels, texts, strict=True))
    ]
    return Layout(
        {"yelp_review.json.gz": gzip.compress("\n".join(map(json.dumps, rows)).encode(), mtime=0)},
        ["task=multiclass data.path=yelp_review.json.gz data.target=stars data.text=[text]"],
        labels,
        {"useful": [row % 7 for row in range(draw.rows)]},
        texts=["text"],
    )


@layout
def coco_json(draw: Random) -> Layout:
    content = {
        "images": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": 3}],
        "categories": [{"id": 3}],
    }
    return Layout(
        {"instances_val2017.json": json.dumps(content).encode()},
        ["task=multilabel data.path=instances_val2017.json data.target=category_id"],
        [],
        pending="has to be converted to a table",
    )


@layout
def two_tables_in_a_zip(draw: Random) -> Layout:
    found = zip_file(Random("zip_file"))
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for name in ("train.csv", "test.csv"):
            archive.writestr(zipfile.ZipInfo(name), "a,species\n1,x\n")
    return Layout(
        {"kaggle.zip": output.getvalue()}, [f"{BASE}kaggle.zip"], found.labels, pending="has to be extracted"
    )
