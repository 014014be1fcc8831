"""A word list for the language of the project: plain, idiomatic English, as CONTRIBUTING.md asks for."""

import ast
import functools
import io
import re
import tokenize

import pytest
from paths import ROOT

PATTERNS = {
    r"\b(told|mend(s|ed|ing)?|anew|alike|whatever|lest)\b": "computed, stated, fixes, again, equal, any",
    r"\bbeside\b": "next to, with, besides",
    r"\bof (ours|(one's|your|its|their|his|her|my|our) own)\b": "your own X, built-in X, a separate X",
    r"\bto the bit\b": "bit-exact, bit-identical",
    r"\bthe shares\b|\bshares of the (classes|labels|train)": "class frequencies",
    r"(?<!\b[Tt]here )\b(is|are|was|were|has|have|had) none\b": "is not one, has no X",
    r"(?<!\b[Tt]here )\b(is|are) no (?!longer\b|more\b|less\b|fewer\b|better\b|worse\b|different\b|\d)": "is not a X",
    r"\bthat there (is|are) not\b": "that does not exist, unknown",
    r"\bSay `?[\w.+]+=": "Set x=",
    r"(?<![\w.,)\]'\"`/*$-])(?<!= )\.\d+\b(?!\.)": "a zero before the decimal point",
    r"\b(comes?|came) (of|along)\b|\bcalled up\b|\bhangs? together\b|\bgone to\b|\blook(ed|s) at\b": "a literal verb",
    r"\ba whole number\b|\bwhole numbers\b|\bnumber of at least\b": "an integer, >=",
    r"\bas many as you like\b|\bas (one|those) that\b|\bfor want of\b|\bbeneath\b": "simpler words",
}
"""Expressions that readers stumble over, each with what to write instead."""

START = r"(Of|What|Which|How|Whether)\b"


def comments(source):
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [(token.start[0], token.string) for token in tokens if token.type == tokenize.COMMENT]


def docstrings(tree):
    """The docstrings of modules, classes and functions, and those below attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(value := getattr(node.value, "value", None), str):
            yield node.lineno, value


def messages(tree):
    """All other texts with a space in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, node.value


@functools.cache
def prose(path):
    """The lines of a file that are written for people, with the number of the line that they start in."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        tree = ast.parse(text)
        is_test = (
            "tests" in path.parts or "benchmarks" in path.parts
        )  # its texts are also data, such as labels
        return [*comments(text), *(docstrings(tree) if is_test else messages(tree))]
    lines, code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        code ^= line.startswith("```")
        if path.suffix == ".yaml":
            lines.append((number, line.partition("#")[2]))
        elif not code and not line.startswith(("    ", "```")):
            lines.append((number, line))
    return lines


FOLDERS = ("lossselect", "tests", "examples", "benchmarks", "scripts", "configs", "docs")
FILES = [
    path
    for suffix in ("py", "md", "yaml")
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob(f"*.{suffix}"))
]
FILES = [path for path in FILES if path.name not in ("test_language.py", "messages.json")]
FILES += [*ROOT.glob("*.md"), ROOT / "make.py", ROOT / "train.py"]


@pytest.mark.xdist_group("language")  # reading all files takes seconds
@pytest.mark.parametrize("pattern", PATTERNS)
def test_expressions_that_readers_stumble_over(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]!r}: {PATTERNS[pattern]}"
        for path in FILES
        for number, text in prose(path)
        if (match := re.search(pattern, re.sub(r"`[^`]*`", "``", text)))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("folder", ["lossselect", "tests", "examples", "benchmarks", "scripts"])
def test_no_docstring_starts_with_a_fragment(folder):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {text.strip().splitlines()[0]}"
        for path in (ROOT / folder).rglob("*.py")
        for number, text in docstrings(ast.parse(path.read_text(encoding="utf-8")))
        if re.match(START, text.strip())
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "text", ["as it was told", "a net of your own", "the mean is .67", "is no tensor", "Say x=1"]
)
def test_the_list_finds_what_it_is_for(text):
    assert any(re.search(pattern, text) for pattern in PATTERNS)
