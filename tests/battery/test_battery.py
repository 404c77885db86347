"""The short form of each row."""

import random

import pytest

from radosmount.lab import Lab
from tests.battery import mounts
from tests.battery.__main__ import report_of
from tests.battery.kills import Attempt, File
from tests.battery.planted import BUGS, Bug, with_bug
from tests.battery.row import Row, RowFailed, perform
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


def test_the_report_names_each_bug() -> None:
    """By the row that has to catch it, also before any row has run."""
    _, heading, section = report_of([]).partition("\n## The battery itself\n")
    assert heading
    for bug in BUGS:
        assert f"- **{bug.row}**: {bug.what}.\n" in section


def test_writers_meet_where_their_mounts_differ() -> None:
    """Those of one mount are no fault to each other, nor is who made the file."""
    assert mounts.is_crossed(0, 1)
    assert not mounts.is_crossed(0, mounts.MOUNT_COUNT)
    assert not mounts.is_crossed(1, mounts.WRITER_COUNT)


def test_a_file_may_be_as_it_was_between_two_writes_of_one_attempt() -> None:
    """The first went out while the second, over a part of it, was being made."""
    contents: dict[str, bytes] = {}
    between = (b"bbbbbbaa",)
    attempt = Attempt(b"bbccccaa", is_whole=False, kept_bytes=8, between=between)
    assert File("f", b"aaaaaaaa", attempt).check(b"bbbbccaa", contents.get) == "mixed"
    assert File("f", b"aaaaaaaa", attempt).check(b"bbaabbaa", contents.get) == "mixed"
    with pytest.raises(RowFailed, match="neither old nor new"):
        File("f", b"aaaaaaaa", attempt).check(b"bbbbbbbb", contents.get)
    with pytest.raises(RowFailed, match="neither old nor new"):
        File("f", b"aaaaaaaa", attempt).check(b"bbccccaa\0", contents.get)
