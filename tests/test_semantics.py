"""docs/semantics.md promises nothing, and calls nothing impossible, that no test quotes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

# A row of the table "What cannot work" begins so: what, and with which errno.
Row = tuple[str, str]

TESTS = Path(__file__).parent
SEMANTICS = TESTS.parent / "docs" / "semantics.md"


def promises() -> list[str]:
    """The bullets above "What cannot work"; what follows takes promises back."""
    text, heading, _ = SEMANTICS.read_text().partition("## What cannot work")
    assert heading
    return [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]


def rows() -> list[Row]:
    """The first two cells of each row of "What cannot work"."""
    _, _, below = SEMANTICS.read_text().partition("## What cannot work")
    table = [line for line in below.partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert plain(table[0]) == "| operation | errno | why |"
    return beginnings("\n".join(table[2:]))


def beginnings(text: str) -> list[Row]:
    """Of all table rows in a text, whether they end or not."""
    found = re.findall(r"^\|([^|]+)\|([^|]+)\|", text, re.MULTILINE)
    return [(plain(operation), plain(number)) for operation, number in found]


def docstrings() -> Iterator[str]:
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and "test" in node.name:
                yield ast.get_docstring(node) or ""


def plain(text: str) -> str:
    """Without a link's target, and any white space is one space."""
    return " ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text).split())


def test_every_promise_is_quoted() -> None:
    """The docstring of at least one test quotes each promise of docs/semantics.md."""
    assert promises()
    quoted = plain("\n".join(docstrings()))
    missing = [promise for promise in promises() if plain(promise) not in quoted]
    assert not missing, "no test quotes:\n" + "\n".join(missing)


def test_every_refusal_is_quoted() -> None:
    """The docstring of at least one test has the first two cells of each row of "What cannot
    work", and none has a row that is not there."""
    known = rows()
    assert known
    assert len(known) == len(set(known))
    quoted = {row for docstring in docstrings() for row in beginnings(docstring)}
    assert not set(known) - quoted, f"no test quotes: {set(known) - quoted}"
    assert not quoted - set(known), f"there is no such row: {quoted - set(known)}"
