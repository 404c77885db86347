"""scripts/soak: the rows of the battery, in the long form by default.

usage: scripts/soak [--short] [--seed N] [--output FILE] [--keep-going] [ROW...]
Prints a line of JSON for each row; with --output it is appended there, for docs/reliability.md.
"""

import argparse
import random
import sys
import traceback

import pytest

from tests.battery.row import perform
from tests.battery.rows import ROWS


def main() -> int:
    by_name = {row.name: row for row in ROWS}
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--output")
    parser.add_argument("--keep-going", action="store_true")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=", ".join(by_name))
    words = parser.parse_args()
    unknown = [name for name in words.rows if name not in by_name]
    if unknown:
        parser.error(f"no such row: {', '.join(unknown)}")
    failed = []
    for name in words.rows or by_name:
        seed = random.randrange(2**32) if words.seed is None else words.seed
        print(f"{name}: seed {seed}", file=sys.stderr, flush=True)
        try:
            line = perform(by_name[name], "short" if words.short else "long", seed)
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


sys.exit(main())
