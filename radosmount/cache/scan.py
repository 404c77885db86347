"""Whether the reads of one handle are sequential, and what they will come to next.

Pure: no I/O, no awaits, no clock. All offsets and lengths are bytes.

The run is what was read without a gap, `run_bytes` long, up to `end`. The kernel sends several
reads at once, and they may come in another order: what lies a little beyond `end` is kept as
*early* until the gap is closed. A read elsewhere begins a new run.

Invariant: no more is wanted ahead of `end` than the run is long. So whoever reads in runs, and
seeks between them, has the store read at most twice what he reads; who reads at random, or
twice in a row, nothing in vain.
"""

from bisect import bisect_left
from typing import Final

from radosmount.config import KIB, MIB

# Of these reads in a row the last one begins to look ahead.
READ_COUNT_MIN: Final = 3
WINDOW_BYTES_MAX: Final = 8 * MIB
CHUNK_BYTES_MAX: Final = 1 * MIB
# How far ahead of its turn a read may come, where no window says more; and how far behind.
EARLY_BYTES_MIN: Final = 1 * MIB
LATE_BYTES: Final = 128 * KIB
EARLY_COUNT_MAX: Final = 16
# So many in a row behind a gap say that what is missing is not coming: a seek, or, where the gap
# is that much smaller than the run, pages that the kernel still has.
SKIP_READ_COUNT: Final = 8
SKIPPED_FRACTION: Final = 8


class Scan:
    """The reads of one handle."""

    __slots__ = ("_early", "end", "fetched_to", "read_count", "run_bytes")

    def __init__(self) -> None:
        self.end = 0  # of the run
        self.run_bytes = 0
        self.read_count = 0  # of the run
        self.fetched_to = 0  # what lies below it is not wanted any more
        self._early: list[tuple[int, int, int]] = []  # (end, start, read count), sorted, disjoint

    @property
    def window_bytes(self) -> int:
        """How far ahead of `end` to look; 0 where the reads are not known to be sequential."""
        if self.read_count < READ_COUNT_MIN:
            return 0
        return min(self.run_bytes, WINDOW_BYTES_MAX)

    def note(self, offset: int, length: int) -> bool:
        """A read has come. Returns False where it is a seek: then what was fetched is in vain."""
        end = offset + length
        early_bytes = max(self.window_bytes, EARLY_BYTES_MIN)
        if self.read_count == 0 or not -LATE_BYTES <= offset - self.end <= early_bytes:
            return self._restart(offset, end, 1)
        if offset > self.end:
            return self._note_early(offset, end)
        if end > self.end:
            self._advance(end, 1)
        return True  # or it is read once more

    def next_chunk(self, size: int, window_bytes_max: int) -> tuple[int, int] | None:
        """(offset, length) of what to fetch next, if anything. Follow it by `note_fetch`.

        `size`: of the file. Chunks end at multiples of their size, a power of two: reads that
        are aligned do not cross them.
        """
        window_bytes = min(self.window_bytes, window_bytes_max)
        if window_bytes <= 0:
            return None
        start = max(self.fetched_to, self.end)
        if self._early and self._early[-1][0] > start:
            return None
        chunk_bytes = min(1 << (window_bytes.bit_length() - 1), CHUNK_BYTES_MAX)
        stop = start - start % chunk_bytes + chunk_bytes
        if stop - start < chunk_bytes // 2:
            stop += chunk_bytes
        stop = min(stop, size)
        if stop <= start or stop > self.end + window_bytes:
            return None
        return start, stop - start

    def note_fetch(self, end: int) -> None:
        self.fetched_to = end

    def note_loss(self) -> None:
        """What was fetched is not there any more."""
        self.fetched_to = 0

    def forget(self) -> None:
        """Begin anew with the next read."""
        self.read_count = self.run_bytes = self.fetched_to = 0
        self._early.clear()

    def _restart(self, offset: int, end: int, read_count: int) -> bool:
        self._early.clear()
        self.end, self.run_bytes, self.read_count = end, end - offset, read_count
        self.fetched_to = 0
        return False

    def _advance(self, end: int, read_count: int) -> None:
        """The run goes on to `end`, and over what had come early."""
        while True:
            self.run_bytes += end - self.end
            self.read_count += read_count
            self.end = end
            while self._early and self._early[0][0] <= self.end:
                self.read_count += self._early.pop(0)[2]
            if not self._early or self._early[0][1] > self.end:
                return
            end, _, read_count = self._early.pop(0)

    def _note_early(self, offset: int, end: int) -> bool:
        """Keep it, joined to those that it touches."""
        early, read_count = self._early, 1
        first = bisect_left(early, (offset,))
        if first < len(early) and early[first][1] <= offset and end <= early[first][0]:
            return True  # once more
        while first < len(early) and early[first][1] <= end:
            stop, start, count = early.pop(first)
            offset, end, read_count = min(offset, start), max(end, stop), read_count + count
        early.insert(first, (end, offset, read_count))
        if read_count >= SKIP_READ_COUNT or len(early) > EARLY_COUNT_MAX:
            return self._skip_to(first)
        return True

    def _skip_to(self, index: int) -> bool:
        end, start, read_count = self._early[index]
        if start - self.end > self.run_bytes // SKIPPED_FRACTION:
            return self._restart(start, end, read_count)
        del self._early[: index + 1]
        self.end = start
        self._advance(end, read_count)
        return True
