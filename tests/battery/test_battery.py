"""The short form of each row."""

import random

import pytest

from radosmount.lab import Lab
from tests.battery.row import Row, perform
from tests.battery.rows import ROWS


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
@pytest.mark.timeout(0)  # the row has a limit of its own, which tells where it hangs
def test_row(row: Row, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    lab: Lab | None = None if row.needs_own_lab else request.getfixturevalue("lab")
    seed = random.randrange(2**32)
    with capsys.disabled():
        print(f"\n{row.name}: seed {seed}", flush=True)
        print(perform(row, "short", seed, lab), flush=True)
