"""docs/semantics.md promises nothing that no test quotes."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
SEMANTICS = TESTS.parent / "docs" / "semantics.md"


def promises() -> list[str]:
    """The bullets above "What cannot work"; what follows takes promises back."""
    text, heading, _ = SEMANTICS.read_text().partition("## What cannot work")
    assert heading
    return [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]


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
