"""The site contains every public name and page, and the examples of README.md and docs/ run.

Each page is one test: its blocks run in the order of the page, in one folder and one namespace.

- A block of `python` is executed; one that starts with `>>>` is a doctest, so that its output is compared as well.
- A block of `console` with output below a line `$ command` is run, and the output compared: one line per message,
  `...` matches anything, a line `...` any number of lines. Blocks without output (`$ pip install ...`) are not run.
  `python train.py`, `lossselect` and `lossselect-train` run in this process, other commands in bash.
- `<!-- skip: REASON -->` above a block leaves it out.
- `<!-- run: CODE -->` runs Python that readers need not see, such as `trainer.fit(model, loader)`, or a command
  (`$ python train.py ...`), which must succeed; CODE may have several lines.
- A name that the page uses and does not define is taken from `FIXTURES`. The folder contains train.csv, new.csv
  and wine.csv (`write_files`).
"""

import ast
import doctest
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import lightning.pytorch
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from paths import ROOT
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from trainers import quiet_trainer

import lossselect as ls
from lossselect import exceptions
from lossselect.cli import main as cli

DOCS = ROOT / "docs"
AUTODOC = re.compile(r"^\.\. auto\w+:: lossselect\.(\S+)$", flags=re.M)
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
GENERATED = {"errors.md", "settings.md"}
"""Pages whose examples have their own tests."""


def read(path):
    return path.read_text(encoding="utf-8")


def navigation():
    """The pages in docs/conf.py and docs/api/index.md, in their order."""
    for node in ast.parse(read(DOCS / "conf.py")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NAVIGATION":
            for section in ast.literal_eval(node.value).values():
                yield from (re.sub(r".*<(.*)>", r"\1", line.strip()) for line in section.strip().splitlines())
    toctree = re.search(
        r"^```\{toctree\}\n:hidden:\n\n(.*?)^```$", read(DOCS / "api/index.md"), flags=re.M | re.S
    )
    yield from (f"api/{name}" for name in toctree[1].split())


def test_every_public_name_has_its_place_in_the_api():
    names = AUTODOC.findall("".join(read(page) for page in (DOCS / "api").glob("*.md")))
    assert len(names) == len(set(names))
    assert sorted(name for name in names if "." not in name) == sorted(ls.__all__)
    errors = {
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and issubclass(value, exceptions.LossSelectError)
    }
    assert {name for name in names if name.startswith("exceptions.")} == {
        f"exceptions.{name}" for name in errors
    }
    assert "sklearn.TaskClassifier" in names


def test_the_table_of_names_has_the_names_of_the_pages():
    index = re.findall(r"^   lossselect\.(\S+)$", read(DOCS / "api/index.md"), flags=re.M)
    pages = [page for page in navigation() if page.startswith("api/") and page != "api/index"]
    assert index == [name for page in pages for name in AUTODOC.findall(read(DOCS / f"{page}.md"))]


def test_every_page_is_in_the_navigation():
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    listed = [page.replace("self", "index") for page in navigation()]
    assert len(listed) == len(set(listed))
    assert set(listed) == pages


def test_the_links_of_the_readme_lead_somewhere():
    """Sphinx checks those of the pages."""
    for path, anchor in re.findall(r"\]\((?!\w+:)([^)#]*)(?:#([^)]*))?\)", read(ROOT / "README.md")):
        assert (ROOT / path).exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", read(ROOT / (path or "README.md")), flags=re.M)
            slugs = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{path}#{anchor}"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_cpu_build_of_torch_is_the_pinned_version(page):
    """With another version, `pip install -c constraints.txt` would replace it by the CUDA build."""
    pinned = re.search(r"^torch==(\S+)$", read(ROOT / "constraints.txt"), flags=re.M)[1]
    assert re.findall(r"torch==(\S+)", read(ROOT / page)) == [pinned]


def test_the_page_of_settings_is_current():
    spec = spec_from_file_location("settings_page", ROOT / "scripts" / "settings_page.py")
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.render_page() == read(script.PAGE), "Run python scripts/settings_page.py."


def test_the_map_lists_every_package():
    text = read(ROOT / "CONTRIBUTING.md")
    packages = [path.parent for path in (ROOT / "lossselect").rglob("__init__.py")]
    for folder in packages[1:]:
        assert f"| `{folder.relative_to(ROOT / 'lossselect').as_posix()}/` |" in text


def test_no_package_is_crowded():
    for path in (ROOT / "lossselect").rglob("__init__.py"):
        modules = [module for module in path.parent.glob("*.py") if module.name != "__init__.py"]
        assert len(modules) <= 12, path.parent


class Block(NamedTuple):
    """A block of a page; `kind` is "python" or "console"."""

    kind: str
    code: str
    line: int


PARTS = re.compile(
    r"^(?P<indent> *)```(?P<kind>python|console)\n(?P<code>.*?)^(?P=indent)```$"
    r"|^ *<!-- (?P<word>skip|run): ?(?P<text>.*?)-->$",
    flags=re.M | re.S,
)


def blocks_of(text) -> Iterator[Block]:
    """The blocks of a page that are run."""
    skip = False
    for part in PARTS.finditer(text):
        start = (part["word"] and part.start("text")) or part.start("code")
        line = text.count("\n", 0, start) + 1
        if part["word"] == "skip":
            skip = True
        elif part["word"] == "run":
            code = re.sub(r"^ *\$ (.*)$", lambda match: f"succeed({match[1]!r})", part["text"], flags=re.M)
            yield Block("python", dedent(code), line)
        elif skip:
            skip = False
        else:
            yield Block(part["kind"], dedent(part["code"]), line)


PAGE = """
<!-- skip: needs a GPU -->
```python
skipped
```

<!-- run: a = 1; b = 2 -->

- in a list
  ```python
  >>> a + b
  3
  ```

<!-- run:
$ echo hidden
-->
```console
$ echo one two
one ...
```
"""


def test_the_parts_of_a_page(shell):
    hidden, python, command, console = blocks_of(PAGE)
    names = Namespace(succeed=lambda line: shell(line)[0])
    for block in (hidden, python, command):
        run_python(block, names, "page.md")
    assert [block.line for block in (hidden, python, console)] == [7, 11, 19]
    run_console(console, shell)
    for wrong in ("one", "two ...", "one ...\ntwo"):
        with pytest.raises(AssertionError, match="one two"):
            run_console(console._replace(code=f"$ echo one two\n{wrong}\n"), shell)
    run_console(console._replace(code="$ echo 1; echo 2; echo 3\n...\n3\n"), shell)
    run_console(console._replace(code="$ this-is-not-run\n"), shell)
    with pytest.raises(AssertionError, match="4"):
        run_python(python._replace(code=">>> 2 + 2\n5\n"), names, "page.md")


def make_loader():
    return DataLoader(TensorDataset(torch.randn(64, 8), (torch.rand(64, 5) < 0.4).float()), 16)


FIXTURES = {
    "ls": lambda: ls,
    "torch": lambda: torch,
    "nn": lambda: nn,
    "np": lambda: np,
    "trainer": lambda: quiet_trainer(max_epochs=1, enable_checkpointing=False),
    # 64 rows of 8 features and 5 labels
    **dict.fromkeys(("loader", "train_loader", "val_loader", "test_loader"), make_loader),
    "features": lambda: torch.randn(64, 8),
    "labels": lambda: (torch.rand(64, 5) < 0.4).float(),
}
"""Objects that a page may use without defining them, by name."""


def write_files():
    """Write train.csv (irises), new.csv (some of them, without species) and wine.csv into the current folder."""
    from sklearn.datasets import load_iris, load_wine

    iris, wine = load_iris(), load_wine()
    names = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    species = iris.target_names[iris.target].tolist()
    growers = [("barolo", "grignolino", "barbera")[label] for label in wine.target]
    write_csv("train.csv", [*names, "species"], zip(*iris.data.T, species, strict=True))
    write_csv("new.csv", names, iris.data[::30])
    write_csv("wine.csv", [*wine.feature_names, "wine"], zip(*wine.data.T, growers, strict=True))


def write_csv(file, header, rows):
    lines = [",".join(map(str, row)) for row in [header, *rows]]
    Path(file).write_text("\n".join(lines) + "\n", encoding="utf-8")


class Namespace(dict):
    """The names of a page; a missing one is made by its fixture."""

    def __missing__(self, name):
        if name not in FIXTURES:
            raise KeyError(name)
        self[name] = FIXTURES[name]()
        return self[name]


make_trainer = lightning.pytorch.Trainer.__init__


@wraps(make_trainer)  # the command line reads the names of the arguments
def make_quiet_trainer(self, **options):
    """Make a Trainer that prints and logs nothing unless it is asked to."""
    checkpointing = any(isinstance(callback, ModelCheckpoint) for callback in options.get("callbacks") or ())
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    make_trainer(self, **{**quiet, "enable_checkpointing": checkpointing, **options})


def run_python(block, names, page):
    if not block.code.lstrip().startswith(">>>"):
        exec(compile("\n" * (block.line - 1) + block.code, page, "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(block.code, {}, page, page, block.line - 1)
    test.globs = names
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    assert not runner.run(test, out=report.append, clear_globs=False).failed, "".join(report)


def matches(expected, printed):
    """Compare output with that of a page, in which `...` matches anything."""
    lines = [r"(?:.*\n)*?" if line.strip() == "..." else f"{pattern(line)} *\n" for line in expected]
    return re.fullmatch("".join(lines), printed.rstrip() + "\n")


def pattern(line):
    return ".*?".join(map(re.escape, line.rstrip().split("...")))


@pytest.fixture
def shell(command, capsys, monkeypatch):
    """Runs a command; returns whether it succeeded, and what it printed."""

    def run(line):
        capsys.readouterr()  # what the page printed before
        words = shlex.split(line, comments=True)
        words = words[1:] if words[:2] == ["python", "train.py"] else words
        if words[0] in ("train.py", "lossselect-train"):
            code, *printed = command(*words[1:])
            return not code, "".join(printed)
        if words[0] == "lossselect":
            monkeypatch.setattr(sys, "argv", words)
            code = 0
            try:
                cli.main()
            except SystemExit as left:
                code = left.code
            printed = "".join(capsys.readouterr())
            return not code, printed + (f"{code}\n" if isinstance(code, str) else "")
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        done = subprocess.run(["bash", "-c", line], check=False, text=True, **both)
        return not done.returncode, done.stdout

    return run


def run_console(block, shell):
    commands = re.split(r"^\$ ", block.code, flags=re.M)[1:]
    if not any(part.strip().count("\n") for part in commands):
        return
    for part in commands:
        line, *expected = part.rstrip().splitlines()
        _, printed = shell(line)
        assert not expected or matches(expected, printed), f"$ {line}\n{printed}"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.stem
)
@pytest.mark.filterwarnings("ignore::lossselect.LossSelectWarning")
def test_the_examples_of_a_page_run(page, shell, monkeypatch):
    def succeed(line):
        succeeded, printed = shell(line)
        assert succeeded, f"$ {line}\n{printed}"

    monkeypatch.setattr(lightning.pytorch.Trainer, "__init__", make_quiet_trainer)
    write_files()
    names = Namespace(__name__="page", succeed=succeed)
    for block in blocks_of(read(page)):
        if block.kind == "console":
            run_console(block, shell)
        else:
            run_python(block, names, str(page))
