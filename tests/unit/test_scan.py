"""What counts as reading sequentially, and how far ahead that looks."""

import itertools
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from radosmount.cache.scan import CHUNK_BYTES_MAX, WINDOW_BYTES_MAX, Scan
from radosmount.config import KIB, MIB

STEP = 128 * KIB
SIZE = 100 * MIB
Span = tuple[int, int]


def wanted(scan: Scan, size: int = SIZE, window_bytes_max: int = WINDOW_BYTES_MAX) -> list[Span]:
    """All that is to be fetched now."""
    spans: list[Span] = []
    while (span := scan.next_chunk(size, window_bytes_max)) is not None:
        spans.append(span)
        scan.note_fetch(sum(span))
    return spans


def after(*offsets: int, step: int = STEP) -> Scan:
    scan = Scan()
    for offset in offsets:
        scan.note(offset, step)
    return scan


def fetched(scan: Scan, reads: Iterable[Span], size: int = SIZE) -> list[Span]:
    spans: list[Span] = []
    for offset, length in reads:
        scan.note(offset, length)
        spans += wanted(scan, size)
    return spans


def test_two_reads_are_no_stream() -> None:
    """Nothing is fetched for one read, nor for one that follows it."""
    assert not fetched(Scan(), [(5 * STEP, STEP), (6 * STEP, STEP)])


def test_the_third_read_looks_ahead() -> None:
    """As far as was read, in chunks that end at multiples of their size."""
    assert wanted(after(0, STEP, 2 * STEP)) == [(3 * STEP, STEP), (4 * STEP, 2 * STEP)]


def test_the_window_grows() -> None:
    """Up to the maximum; then chunks are of their largest size, and each aligned."""
    spans = fetched(Scan(), [(at, STEP) for at in range(0, 32 * MIB, STEP)])
    assert sum(spans[-1]) == 32 * MIB + WINDOW_BYTES_MAX
    for (offset, length), (following, _) in itertools.pairwise(spans):
        assert offset + length == following
    late = [span for span in spans if span[0] >= 4 * MIB]
    assert all(span == (span[0] // MIB * MIB, CHUNK_BYTES_MAX) for span in late)


def test_a_smaller_window() -> None:
    """Where memory is short the window is what there is of it."""
    scan = after(*range(0, 16 * MIB, STEP))
    assert wanted(scan, window_bytes_max=2 * MIB) == [(16 * MIB, MIB), (17 * MIB, MIB)]
    assert not wanted(scan, window_bytes_max=0)


def test_nothing_behind_the_end() -> None:
    """The last chunk ends with the file."""
    reads = [(at, STEP) for at in range(0, 8 * STEP, STEP)]
    spans = fetched(Scan(), reads, size=8 * STEP + 5)
    assert sum(spans[-1]) == 8 * STEP + 5


def test_reads_out_of_order() -> None:
    """Reads that the kernel sent at once may come in another order."""
    scan = after(0, 2 * STEP, STEP, 5 * STEP, 4 * STEP, 3 * STEP)
    assert (scan.end, scan.run_bytes, scan.read_count) == (6 * STEP, 6 * STEP, 6)
    assert wanted(scan)


def test_nothing_is_fetched_behind_a_gap() -> None:
    """A read that came early may be the beginning of a seek."""
    assert not wanted(after(0, STEP, 2 * STEP, 9 * STEP))


def test_a_seek_forgets() -> None:
    """A read far away begins anew."""
    scan = after(*range(0, 2 * MIB, STEP))
    assert scan.note(50 * MIB, STEP) is False
    assert scan.window_bytes == 0
    assert scan.note(50 * MIB + STEP, STEP) is True
    assert not wanted(scan)


def test_a_seek_back_forgets() -> None:
    scan = after(*range(0, 2 * MIB, STEP))
    assert scan.note(0, STEP) is False
    assert scan.window_bytes == 0


def test_a_read_may_come_twice() -> None:
    """It is neither a seek nor progress."""
    scan = after(0, STEP, 2 * STEP, 3 * STEP)
    spans = wanted(scan)
    assert spans
    assert scan.note(3 * STEP, STEP) is True
    assert not wanted(scan)


def test_cached_pages_are_skipped() -> None:
    """What the kernel has already it does not read: a small gap is no seek."""
    scan = after(*range(0, 4 * MIB, STEP))
    for at in range(4 * MIB + STEP, 4 * MIB + 9 * STEP, STEP):
        assert scan.note(at, STEP) is True
    assert scan.end == 4 * MIB + 9 * STEP
    assert scan.window_bytes > 4 * MIB


def test_a_large_gap_is_a_seek() -> None:
    """Reads in a row behind a gap are a run of their own."""
    step = 64 * KIB
    scan = after(0, step, 2 * step, step=step)
    kept = [scan.note(at * step, step) for at in range(6, 14)]
    assert kept == [True] * 7 + [False]
    assert scan.run_bytes == 8 * step


def test_strides_are_no_stream() -> None:
    """A read every so often, however near, never looks ahead."""
    assert not fetched(Scan(), [(at, 4 * KIB) for at in range(0, 16 * MIB, 64 * KIB)])


def test_what_was_lost_may_be_fetched_again() -> None:
    scan = after(0, STEP, 2 * STEP)
    spans = wanted(scan)
    scan.note_loss()
    assert wanted(scan) == spans
    scan.forget()
    assert not wanted(scan)


@given(st.permutations(range(6)), st.integers(0, 40))
def test_any_order_comes_to_the_same(order: list[int], start: int) -> None:
    """Six reads at once in the midst of a run are a run, whatever their order."""
    scan = after(*range(start * STEP, (start + 4) * STEP, STEP))
    for index in order:
        scan.note((start + 4 + index) * STEP, STEP)
    assert (scan.run_bytes, scan.read_count) == (10 * STEP, 10)
    assert scan.end == (start + 10) * STEP


@given(st.lists(st.tuples(st.integers(0, 4096), st.integers(1, 64)), max_size=60))
def test_random_reads_fetch_little(reads: list[Span]) -> None:
    """Whatever is read, nothing is fetched twice without a seek between, nothing that was read
    just now, and never more ahead than was read in a row."""
    scan = Scan()
    for offset, length in reads:
        scan.note(offset * KIB, length * KIB)
        assert scan.run_bytes <= sum(length * KIB for _, length in reads)
        spans = wanted(scan)
        if spans:
            assert scan.read_count >= 3
            assert spans[0][0] >= scan.end
            assert sum(spans[-1]) - scan.end <= scan.run_bytes
        for (start, count), (following, _) in itertools.pairwise(spans):
            assert start + count == following


@given(st.lists(st.integers(0, 100_000), unique=True, max_size=60))
def test_far_reads_fetch_nothing(blocks: list[int]) -> None:
    """Reads of which no three are neighbours fetch nothing."""
    apart = [2 * block * 4 * KIB for block in blocks]
    assert not fetched(Scan(), [(at, 4 * KIB) for at in apart], size=10**10)
