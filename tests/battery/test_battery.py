"""The short form of each row."""

import random

import pytest

from radosmount.lab import Lab
from tests.battery.planted import BUGS, Bug, with_bug
from tests.battery.row import Row, perform
from tests.battery.rows import ROWS

NAMES = {row.name for row in ROWS}
SHORT = [row for row in ROWS if row.short is not None]


@pytest.mark.parametrize("row", SHORT, ids=[row.name for row in SHORT])
@pytest.mark.timeout(0)  # the row has a limit of its own, which tells where it hangs
def test_row(row: Row, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    lab: Lab | None = None if row.needs_own_lab else request.getfixturevalue("lab")
    seed = random.randrange(2**32)
    with capsys.disabled():
        print(f"\n{row.name}: seed {seed}", flush=True)
        print(perform(row, "short", seed, lab), flush=True)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.what)
def test_each_bug_can_be_planted(bug: Bug) -> None:
    """There is one place for it, what it makes can be compiled, and its row is there."""
    compile(with_bug(bug), bug.file, "exec")
    assert bug.row in NAMES
