"""The short form of each row."""

import random

import pytest

from radosmount.lab import Lab
from tests.battery.row import Row, perform
from tests.battery.rows import ROWS

SHORT = [row for row in ROWS if row.short is not None]


@pytest.mark.parametrize("row", SHORT, ids=[row.name for row in SHORT])
@pytest.mark.timeout(0)  # the row has a limit of its own, which tells where it hangs
def test_row(row: Row, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    lab: Lab | None = None if row.needs_own_lab else request.getfixturevalue("lab")
    seed = random.randrange(2**32)
    with capsys.disabled():
        print(f"\n{row.name}: seed {seed}", flush=True)
        print(perform(row, "short", seed, lab), flush=True)
