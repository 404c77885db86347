"""One file above what the store has of it: states, layers and counts."""

from collections.abc import Callable

import pytest

from radosmount.cache.changes import Attempt, PartlyStored
from radosmount.cache.file import ATTEMPT_COUNT_MAX, CachedFile
from radosmount.cache.filestate import TRANSITIONS, FileState
from radosmount.errors import NoSpace, TimedOut
from radosmount.store.interface import ObjectStat, ReadResult
from tests.support.stores import key_of


def stored(size: int = 10) -> CachedFile:
    return CachedFile(key_of(b"f"), ObjectStat(size, 1000, 5))


def test_every_state_takes_modifications() -> None:
    """Whatever is under way, a file can be written to."""
    modified = {state for state, event in TRANSITIONS if event.value == "modified"}
    assert modified == set(FileState)


def test_states_of_one_flush() -> None:
    """A file is dirty, being written, and clean; what comes meanwhile makes it dirty again."""
    file = stored()
    states = [file.state]

    def note(_: object) -> None:
        states.append(file.state)

    note(file.write(0, b"a", 1))
    note(file.start_write())
    assert not file.needs_flush
    note(file.write(0, b"b", 2))
    assert file.needs_flush
    note(file.finish_write(6))
    note(file.start_write())
    note(file.finish_write(7))
    S = FileState
    assert states == [S.CLEAN, S.DIRTY, S.WRITING, S.REDIRTIED, S.DIRTY, S.WRITING, S.CLEAN]
    assert file.base == ObjectStat(10, 2, 7)


def test_clean_file_cannot_be_flushed() -> None:
    """A flush of a clean file is a bug of the caller."""
    with pytest.raises(KeyError):
        stored().start_write()


def test_new_file_is_dirty_from_the_start() -> None:
    """A file that the store does not have must be flushed even if nothing is written."""
    file = CachedFile(key_of(b"f"), None)
    assert file.is_new
    assert file.needs_flush
    assert file.stages_xattrs
    assert file.is_rewritten_whole
    file.set_mtime(7)
    flight = file.start_write()
    assert flight.is_new
    assert flight.replaces_all
    file.finish_write(1)
    assert not file.is_new
    assert not file.stages_xattrs


def test_base_counts_up_to_the_smallest_cut() -> None:
    """What was cut off stays cut off, though the file grows again."""
    file = stored()
    file.truncate(4, 1)
    file.truncate(8, 1)
    assert (file.size, file.base_limit) == (8, 4)
    flight = file.start_write()
    assert (flight.kept_size, flight.size) == (4, 8)
    file.truncate(2, 1)
    assert file.base_limit == 2
    file.fail_write(NoSpace("full"), None)
    assert (file.size, file.base_limit) == (2, 2)


def test_truncate_drops_held_bytes() -> None:
    """Bytes behind the new end are held no more."""
    file = stored()
    file.write(8, b"abcd", 1)
    assert file.truncate(9, 1) == 3
    assert file.dirty_byte_count == 1


def test_held_bytes_of_flight_and_dirty() -> None:
    """What is on its way lies below what was written since, and is cut by it."""
    file = stored()
    file.write(0, b"aaaa", 1)
    file.start_write()
    file.write(1, b"b", 1)
    assert file.unstored_byte_count == 5
    assert file.held_within(0, 10) == [(0, b"aaaa"), (1, b"b")]
    file.truncate(3, 1)
    assert file.held_within(0, 10) == [(0, b"aaa"), (1, b"b")]


def test_failed_flight_counts_bytes_once() -> None:
    """When a flush fails, bytes that were overwritten meanwhile are held once only."""
    file = stored()
    file.write(0, b"aaaa", 1)
    file.start_write()
    file.write(2, b"bbbb", 1)
    assert file.fail_write(NoSpace("full"), None) == 2
    assert file.dirty_byte_count == 6
    assert file.held_within(0, 10) == [(0, b"aabbbb")]


def test_failed_flight_keeps_everything_else() -> None:
    """A failed flush keeps mtime, xattrs and cut, under what came since."""
    file = stored()
    file.truncate(0, 1)
    file.stage_xattr(b"a", b"1")
    file.stage_xattr(b"b", b"1")
    file.set_mtime(77)
    file.start_write()
    file.stage_xattr(b"b", None)
    assert file.staged_xattrs == {b"a": b"1", b"b": None}
    file.fail_write(NoSpace("full"), None)
    assert file.staged_xattrs == {b"a": b"1", b"b": None}
    assert file.mtime_s == 77
    assert file.base_limit == 0


def test_half_stored_flight_goes_on_from_there() -> None:
    """After its first operation was stored, a file is not new, and its cut and xattrs are done."""
    file = CachedFile(key_of(b"f"), None)
    file.write(0, b"abcd", 1)
    file.stage_xattr(b"a", b"1")
    file.start_write()
    file.fail_write(NoSpace("full"), PartlyStored(4, 1, 9, size_min=2))
    assert not file.is_new
    assert file.staged_xattrs == {}
    assert file.start_write().base.version == 9


def test_errors_are_for_those_who_have_it_open() -> None:
    """A failure with writers is theirs to hear; one without waits for the next opener."""
    file = stored()
    file.write(0, b"a", 1)
    file.writer_count = 1
    file.start_write()
    file.fail_write(NoSpace("full"), None)
    assert (file.error_count, file.reported_error_count) == (1, 1)
    file.writer_count = 0
    file.start_write()
    file.fail_write(NoSpace("full"), None)
    assert (file.error_count, file.reported_error_count) == (2, 1)


def test_append_moves_behind_others() -> None:
    """Appended bytes, on their way and later ones, follow the object's new end."""
    file = stored()
    file.write(10, b"ab", 1, is_append=True)
    file.start_write()
    file.write(12, b"cd", 1, is_append=True)
    file.move_appended(ObjectStat(15, 1, 8))
    assert file.held_within(0, 30) == [(15, b"ab"), (17, b"cd")]
    assert file.size == 19
    assert file.current_flight.base.version == 8


def test_append_moves_only_what_is_not_there() -> None:
    """Bytes that a lost append has stored stay in their place."""
    file = stored()
    file.write(10, b"abcd", 1, is_append=True)
    file.start_write()
    file.move_appended(ObjectStat(15, 1, 8), start=12)
    assert file.held_within(0, 30) == [(10, b"ab"), (15, b"cd")]
    assert file.size == 17


@pytest.mark.parametrize("change", ["write", "truncate"])
def test_only_appends_move(change: str) -> None:
    """A file that was changed in other ways too cannot be put behind anyone."""
    file = stored()
    file.write(10, b"ab", 1, is_append=True)
    file.start_write()
    assert file.can_move_appended
    if change == "write":
        file.write(0, b"x", 1)
    else:
        file.truncate(3, 1)
    assert not file.can_move_appended


def test_clean_file_learns_newer_versions_only() -> None:
    """Only a clean file takes over what the store says, and never an older answer."""
    file = stored()
    assert file.observe(ObjectStat(20, 2000, 7))
    assert file.size == 20
    assert not file.observe(ObjectStat(10, 1000, 5))
    assert not file.observe(ObjectStat(20, 2000, 7))
    assert file.size == 20
    file.write(0, b"x", 1)
    assert not file.observe(ObjectStat(30, 3000, 9))
    assert file.size == 20


def test_epoch_grows_with_every_change() -> None:
    """Whoever waited for an answer can tell that the file has changed since the question."""
    file = stored()
    epochs = [file.epoch]
    file.write(0, b"x", 1)
    epochs.append(file.epoch)
    file.start_write()
    epochs.append(file.epoch)
    file.finish_write(6)
    epochs.append(file.epoch)
    file.take_base(ObjectStat(10, 1, 6), 8)
    epochs.append(file.epoch)
    assert epochs == sorted(set(epochs))


def test_attempts_are_bounded_and_end_with_success() -> None:
    """Lost attempts are remembered once each, a limited number, the oldest, until a flush
    succeeds."""
    file = stored()
    file.write(0, b"x", 1)
    file.start_write()
    for size in range(2 * ATTEMPT_COUNT_MAX):
        for _ in range(2):
            file.remember_attempt(Attempt(size, size, 1, False, ()))
    assert [attempt.size_min for attempt in file.attempts] == list(range(ATTEMPT_COUNT_MAX))
    file.fail_write(TimedOut("lost"), None)
    file.start_write()
    file.finish_write(9)
    assert file.attempts == []


def test_discard() -> None:
    """A file that forgets what is not stored is what the store has."""
    file = stored()
    file.write(8, b"abcd", 1)
    assert file.discard() == 4
    assert file.is_clean
    assert file.size == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.write(0, b"x", 1),
        lambda file: file.truncate(0, 1),
        lambda file: file.observe(ObjectStat(10, 1000, 6)),
        lambda file: file.take_base(file.base, 6),
        lambda file: file.discard(),
    ],
    ids=["write", "truncate", "changed elsewhere", "rename", "unlink"],
)
def test_stored_content_is_dropped(change: Callable[[CachedFile], object]) -> None:
    """What a flush has stored is kept until the file is another."""
    file = stored()
    file.stored = ReadResult(b"0123456789", 5)
    file.observe(file.base)
    assert file.known_content == file.stored
    change(file)
    assert file.stored is None


def test_known_bare() -> None:
    """That an object has no xattrs is known of one version only."""
    file = stored()
    assert not file.is_known_bare
    file.bare_version = 5
    assert file.is_known_bare
    file.observe(ObjectStat(10, 1000, 6))
    assert not file.is_known_bare
