"""The short form of each row, and what makes any row fail."""

import contextlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from radosmount.lab import Lab
from tests.battery import mounts
from tests.battery import row as row_module
from tests.battery.__main__ import report_of
from tests.battery.kills import Attempt, File
from tests.battery.planted import BUGS, Bug, with_bug
from tests.battery.row import Arena, Row, RowFailed, perform
from tests.battery.rows import ROWS
from tests.mount.mounting import Mount

HANGS_S = 30
NAMES = {row.name for row in ROWS}
SHORT = [row for row in ROWS if row.short is not None]


@pytest.mark.parametrize("row", SHORT, ids=[row.name for row in SHORT])
@pytest.mark.timeout(0)  # the row has a limit of its own, which tells where it hangs
def test_row(row: Row, request: pytest.FixtureRequest) -> None:
    lab: Lab | None = None if row.needs_own_lab else request.getfixturevalue("lab")
    seed = random.randrange(2**32)
    print(f"{row.name}: seed {seed}")
    print(perform(row, "short", seed, lab))


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


def test_what_is_cut_is_told_from_what_is_mixed() -> None:
    whole = mounts.stamped(2, 290, mounts.FILE_BYTES[1])
    assert mounts.is_cut(whole[:100])
    assert not mounts.is_cut(whole)
    assert not mounts.is_cut(whole[:50] + bytes(50))
    assert not mounts.is_cut(b"")


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


def made_row(run: Callable[[Arena], None]) -> Row:
    return Row("made", "for the guards", run, {}, {}, limit_s=(1, 1))


def do_all(arena: Arena) -> None:
    arena.figures.faults += 1
    arena.figures.verified += 1


@pytest.fixture
def idle_lab(tmp_path: Path) -> Lab:
    """One that was never started."""
    return Lab(tmp_path / "lab")


def test_a_row_that_does_all_passes(idle_lab: Lab) -> None:
    assert '"faults": 1' in perform(made_row(do_all), "short", 0, idle_lab)


def test_a_row_that_injects_nothing_fails(idle_lab: Lab) -> None:
    def run(arena: Arena) -> None:
        arena.figures.verified += 1

    with pytest.raises(RowFailed, match="no fault was injected"):
        perform(made_row(run), "short", 0, idle_lab)


def test_a_row_that_verifies_nothing_fails(idle_lab: Lab) -> None:
    def run(arena: Arena) -> None:
        arena.figures.faults += 1

    with pytest.raises(RowFailed, match="nothing was verified"):
        perform(made_row(run), "short", 0, idle_lab)


@pytest.mark.timeout(0)  # it would be by the same signal
def test_a_row_that_hangs_fails(
    idle_lab: Lab, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends at its limit, and shows what it has noted and where it is."""

    def wait_long(arena: Arena) -> None:
        arena.note("waiting for nobody")
        do_all(arena)
        threading.Event().wait(HANGS_S)

    monkeypatch.setattr(row_module, "STACK_WAIT_S", 0)
    with pytest.raises(RowFailed, match="hangs: not done after 1 s"):
        perform(made_row(wait_long), "short", 0, idle_lab)
    shown = capfd.readouterr().err
    assert "waiting for nobody" in shown
    assert "in wait_long" in shown


@pytest.mark.parametrize(
    ("line", "is_failure"),
    [
        ("radosmount: WARNING: something else", True),
        ("Traceback (most recent call last):", True),
        ("radosmount: WARNING: is known", False),
        ("radosmount: INFO: something else", False),
    ],
)
def test_a_mount_with_an_unlisted_warning_fails_its_row(
    line: str, is_failure: bool, idle_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a mount that only writes this line."""

    def write_line(mount: Mount, *words: object) -> None:
        mount.log_path.write_text(f"{line}\n")

    def run(arena: Arena) -> None:
        with arena.mounted("ceph:", expected=("is known",)):
            do_all(arena)

    monkeypatch.setattr(Mount, "start", write_line)
    monkeypatch.setattr(Mount, "stop", lambda mount: 0)
    refusal = pytest.raises(pytest.fail.Exception, match="unexpected in the mount's log")
    with refusal if is_failure else contextlib.nullcontext():
        perform(made_row(run), "short", 0, idle_lab)
