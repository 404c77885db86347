"""scripts/soak: the rows of the battery, in the long form by default; and the report of them.

usage: scripts/soak [--short] [--seed N] [--output FILE] [--keep-going] [ROW...]
       scripts/soak --report FILE...
Prints a line of JSON for each row; with --output it is appended there. --report writes
docs/reliability.md from such files: of each row and form the last line.
"""

import argparse
import json
import random
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.battery.planted import BUGS
from tests.battery.row import perform
from tests.battery.rows import ROWS

REPORT_PATH: Final = Path(__file__).parents[2] / "docs" / "reliability.md"
HEAD: Final = """\
# Reliability

What was broken on purpose, and what was compared afterwards with what it had to be. Written by
`scripts/soak --report` from the lines that `scripts/soak --output` has left; each row is a function
in `tests/battery/`. A row that injects nothing, or compares nothing, fails, and so does one that
hangs. `scripts/test` runs the short forms, `scripts/soak` the long ones; the seed repeats a row.

| row | form | date | seed | sizes | faults | compared | seconds |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""
BUGS_HEAD: Final = """
## The battery itself

Does it find what it is there for? The row `planted` makes each of these mistakes on purpose, one at
a time, in a copy of the package, and runs the row that has to fail there: a row, and what the copy
gets wrong.

"""


def report_of(paths: Iterable[Path]) -> str:
    """The page. Of each row and form the last line counts."""
    lines = {
        (line["row"], line["form"]): line
        for path in paths
        for line in map(json.loads, path.read_text().splitlines())
    }
    parts = [HEAD]
    shown = [line for row in ROWS for line in lines_of(row.name, lines)]
    parts += [table_line(line) for line in shown]
    missing = [row.name for row in ROWS if (row.name, "long") not in lines]
    parts += [f"\nNot run in the long form yet: {', '.join(missing)}.\n"] if missing else []
    parts.append("\n## The rows\n\n")
    for row in ROWS:
        of_row = list(lines_of(row.name, lines))
        parts += [f"- **{row.name}**: {row.what}.\n"] if of_row else []
        for line in of_row:
            more = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in line["more"].items())
            parts += [f"  In the {line['form']} form: {more}.\n"] if more else []
    parts += [BUGS_HEAD, *(f"- **{bug.row}**: {bug.what}.\n" for bug in BUGS)]
    return "".join(parts)


def lines_of(name: str, lines: dict[tuple[str, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for form in ("short", "long"):
        if (name, form) in lines:
            yield lines[name, form]


def table_line(line: dict[str, Any]) -> str:
    sizes = ", ".join(f"{key} {value:,}" for key, value in line["sizes"].items())
    compared = [f"{line['verified']:,} facts"] if line["verified"] else []
    compared += [f"{line['verified_bytes'] / 1e6:,.0f} MB"] if line["verified_bytes"] else []
    cells = [line["row"], line["form"], line["date"], line["seed"], sizes]
    cells += [f"{line['faults']:,}", ", ".join(compared), f"{line['seconds']:,.0f}"]
    return f"| {' | '.join(map(str, cells))} |\n"


def main() -> int:
    by_name = {row.name: row for row in ROWS}
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--output")
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("--report", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(by_name))
    words = parser.parse_args()
    if words.report:
        REPORT_PATH.write_text(report_of(words.report))
        return 0
    unknown = [name for name in words.rows if name not in by_name]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    failed = []
    form = "short" if words.short else "long"
    names = [row.name for row in ROWS if form == "long" or row.short is not None]
    for name in words.rows or names:
        seed = random.randrange(2**32) if words.seed is None else words.seed
        print(f"{name}: seed {seed}", file=sys.stderr, flush=True)
        try:
            line = perform(by_name[name], form, seed)
        except (Exception, pytest.fail.Exception):
            traceback.print_exc()
            failed.append(name)
            if words.keep_going:
                continue
            break
        print(line, flush=True)
        if words.output:
            with open(words.output, "a") as output:
                print(line, file=output)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":  # a process that a row spawns imports this module, too
    sys.exit(main())
