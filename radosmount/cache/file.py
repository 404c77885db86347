"""One file as programs on this mount see it, above what the store has of it.

Pure: no I/O, no awaits, no clock. `pagecache` decides when bytes go to the store; this module
decides what they are, and what the file is while they are on their way.

What a file is made of, the newest on top:

    dirty    written since the last flush began          (and `cut`: truncated since)
    flight   what a flush is storing right now           (and its `cut`)
    base     what the store had when we last heard of it, up to `base_limit`

A `cut` of n means: of what lies below, only the first n bytes still count. A held-back O_TRUNC
is a cut of 0; so is a new file.

Its states are in `filestate`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import Final

from radosmount.cache.changes import Attempt, Changes, Flight, PartlyStored
from radosmount.cache.extents import Buffer
from radosmount.cache.filestate import TRANSITIONS, FileEvent, FileState
from radosmount.cache.foreign import ForeignChanges
from radosmount.cache.orphan import Orphan
from radosmount.config import MIB
from radosmount.errors import RadosmountError, StaleFile, XattrSpaceExceeded
from radosmount.store import posix
from radosmount.store.interface import ObjectKey, ObjectStat, ReadResult
from radosmount.store.posix import Posix

# They are not in the budget, so this is what keeps them from filling the memory.
STAGED_XATTR_BYTES_MAX: Final = 1 << 20
XATTR_EXTRA_BYTES: Final = 256  # what Python takes for each, beside its name and value


# Each that is lost again adds one, if anything was written meanwhile.
ATTEMPT_COUNT_MAX: Final = 32
# From here on a flush first makes sure that none of them is applied any more. Below the maximum by
# more than what one flush adds: an attempt that may be applied must not be forgotten.
ATTEMPT_COUNT_MANY: Final = 16
NOTHING: Final = ObjectStat(size=0, mtime_s=0, version=0)
# What is appended goes out in flights of whole writes, each of one guarded operation: what others
# append meanwhile comes between two of them. One write may be longer.
APPEND_BYTES_MAX: Final = 4 * MIB


class CachedFile:
    """The state of one file. Sizes and offsets are bytes, times whole seconds."""

    __slots__ = (
        "__weakref__",
        "_append_starts",
        "_dirty",
        "_flight",
        "_is_append",
        "answered_s",
        "attempts",
        "bare_version",
        "base",
        "epoch",
        "error",
        "error_count",
        "foreign",
        "heard_s",
        "is_new",
        "is_suspect",
        "is_unlinked",
        "key",
        "orphan",
        "reported_error_count",
        "size",
        "state",
        "stored",
        "writer_count",
    )

    def __init__(self, key: ObjectKey, base: ObjectStat | None) -> None:
        """`base`: the object as the store has it; None where it has none, and the file is to
        be made by its first flush."""
        self.key = key
        self.base = base or NOTHING
        self.size = self.base.size
        self.state = FileState.CLEAN
        self.is_new = base is None
        self.is_unlinked = False
        self.attempts: list[Attempt] = []  # may have been applied, or may yet be
        self.is_suspect = False  # the store was seen at another version than `base`
        self.stored: ReadResult | None = None  # the whole object, as our last flush left it
        self.bare_version = 0  # at which the object is known to have neither xattrs nor omap
        self.epoch = 0  # grows whenever an answer that was asked for before is outdated
        self.heard_s = float("-inf")  # when the store last said what it has (the caller's clock)
        self.answered_s = float("-inf")  # or anything at all, while there was something to store
        self.writer_count = 0  # handles open for writing
        self.foreign = ForeignChanges()
        self.orphan: Orphan | None = None  # the content, once unlinked while open
        self.error: RadosmountError | None = None  # of the last flush that failed
        self.error_count = 0
        self.reported_error_count = 0  # how many of them no later opener needs to hear of
        self._dirty = Changes()
        self._flight: Flight | None = None
        self._is_append = True  # all dirty extents were appended
        self._append_starts: list[int] = []  # where their flights begin, each behind a write
        if self.is_new:
            self._dirty.cut = 0
            self._apply(FileEvent.MODIFIED)

    @classmethod
    def with_unstored(
        cls, key: ObjectKey, flight: Flight, attempts: Iterable[Attempt]
    ) -> "CachedFile":
        """A file that has what `flight` would store, and may have tried to before."""
        file = cls(key, None if flight.is_new else flight.base)
        file._dirty = flight.changes
        file._is_append = flight.is_append
        file.size = flight.size
        file.attempts = list(attempts)
        file._apply(FileEvent.MODIFIED)
        return file

    # What it is now

    @property
    def current_flight(self) -> Flight:
        assert self._flight is not None
        return self._flight

    # Properties, too, but without a call: every request asks for them, some many times.
    is_clean: bool = property(attrgetter("state.is_clean"))  # type: ignore[assignment]
    needs_flush: bool = property(attrgetter("state.needs_flush"))  # type: ignore[assignment]

    @property
    def flight_count(self) -> int:
        """In how many flights, at most, what is dirty goes out."""
        return len(self._append_starts) if self._is_split else int(self.needs_flush)

    @property
    def _is_split(self) -> bool:
        return self._is_append and len(self._append_starts) > 1

    @property
    def is_in_flight(self) -> bool:
        return self._flight is not None

    @property
    def stages_xattrs(self) -> bool:
        """The next flush replaces the whole object, or makes it: until then there is none to
        change. Or it would put what was staged before over newer values."""
        return self.is_new or self._dirty.cut == 0 or bool(self._dirty.xattrs)

    @property
    def is_rewritten_whole(self) -> bool:
        """The next flush may be one atomic write of everything, if it is small enough."""
        return self._flight is None and (self.is_new or self.base_limit == 0)

    @property
    def dirty_byte_count(self) -> int:
        return self._dirty.extents.byte_count

    @property
    def unstored_byte_count(self) -> int:
        in_flight = self._flight.changes.extents.byte_count if self._flight else 0
        return self._dirty.extents.byte_count + in_flight

    @property
    def mtime_s(self) -> int:
        for changes in (self._dirty, self._flight and self._flight.changes):
            if changes and changes.mtime_s is not None:
                return changes.mtime_s
        return self.base.mtime_s

    @property
    def posix(self) -> Posix:
        """Mode, owner and what else has no place in RADOS; `posix.NONE` where none is known."""
        flight_posix = self._flight.changes.posix if self._flight else None
        return self._dirty.posix or flight_posix or self.base.posix or posix.NONE

    @property
    def staged_xattrs(self) -> dict[bytes, bytes | None]:
        """Changes to xattrs that wait for a flush; None removes."""
        in_flight = self._flight.changes.xattrs if self._flight else {}
        return {**in_flight, **self._dirty.xattrs}

    @property
    def base_limit(self) -> int:
        """Up to where the store's bytes count, where nothing newer lies over them."""
        limit = self._flight.kept_size if self._flight else self.base.size
        return limit if self._dirty.cut is None else min(limit, self._dirty.cut)

    @property
    def known_content(self) -> ReadResult | None:
        """All that the store has, at the version of `base`, where it was kept."""
        is_current = self.stored is not None and self.stored.version == self.base.version
        return self.stored if is_current else None

    @property
    def is_known_bare(self) -> bool:
        """Whether the object has neither xattrs, but the one of `posix`, nor omap, unless someone
        else was there."""
        return 0 < self.bare_version == self.base.version and not self.is_suspect

    # Reading

    def covers(self, offset: int, length: int) -> bool:
        """Whether offset..offset+length (within the size) can be read without the store."""
        end = min(offset + length, self.base_limit)
        covered_to = offset
        for at, view in sorted(self._held(offset, length), key=itemgetter(0)):
            if at > covered_to:
                break
            covered_to = max(covered_to, at + len(view))
        return covered_to >= end

    def held_within(self, offset: int, length: int) -> list[tuple[int, bytes]]:
        """Copies of what the store does not have, as (offset, bytes), the newest last."""
        return [(at, bytes(view)) for at, view in self._held(offset, length)]

    def _held(self, offset: int, length: int) -> Iterator[tuple[int, memoryview]]:
        """The same as views, which a write invalidates."""
        if self._flight:
            cut = self._dirty.cut
            end = offset + length if cut is None else min(offset + length, cut)
            yield from self._flight.changes.extents.overlaps(offset, end - offset)
        yield from self._dirty.extents.overlaps(offset, length)

    # Changing

    def write(self, offset: int, data: Buffer, mtime_s: int, is_append: bool = False) -> int:
        """Overwrite from `offset`; return by how many bytes the held ones grew."""
        grown = self._dirty.extents.write(offset, data)
        self._is_append = self._is_append and is_append
        starts = self._append_starts
        is_long = not starts or offset + len(data) - starts[-1] > APPEND_BYTES_MAX
        if self._is_append and is_long:
            starts.append(offset)
        self.size = max(self.size, offset + len(data))
        self._dirty.mtime_s = mtime_s
        self._apply(FileEvent.MODIFIED)
        return grown

    def truncate(self, size: int, mtime_s: int) -> int:
        """Set the size; return how many held bytes were dropped."""
        dropped = self._dirty.extents.truncate(size)
        if size < self.size:
            cut = self._dirty.cut
            self._dirty.cut = size if cut is None else min(cut, size)
        self.size = size
        self._is_append = False
        self._dirty.mtime_s = mtime_s
        self._apply(FileEvent.MODIFIED)
        return dropped

    def set_mtime(self, mtime_s: int) -> None:
        self._dirty.mtime_s = mtime_s
        self._apply(FileEvent.MODIFIED)

    def set_orphan_mtime(self, mtime_ns: int) -> None:
        """Of an unlinked file, which only those see who have it open."""
        kept = self.base.posix and replace(self.base.posix, mtime_ns=mtime_ns)
        self.base = replace(self.base, mtime_s=mtime_ns // posix.NS_PER_S, posix=kept)

    def stage_posix(self, wanted: Posix) -> None:
        self._dirty.posix = wanted
        self._apply(FileEvent.MODIFIED)

    def stage_xattr(self, name: bytes, value: bytes | None) -> None:
        """None removes it. Raises: XattrSpaceExceeded."""
        staged = {**self.staged_xattrs, name: value}
        if value is not None and _xattr_bytes(staged) > STAGED_XATTR_BYTES_MAX:
            raise XattrSpaceExceeded(f"{self.key.name!r}: {len(staged)} xattrs wait for its flush")
        self._dirty.xattrs[name] = value
        self._apply(FileEvent.MODIFIED)

    # Flushing

    def start_write(self, whole_bytes_max: int = 0) -> Flight:
        """Freeze what is dirty, or of a long append the first of its flights. The rest, and what
        is written from now on, goes out with the next ones.

        `whole_bytes_max`: up to that size a file that is rewritten whole is one flight.
        """
        is_split = self._is_split and not (self.is_rewritten_whole and self.size <= whole_bytes_max)
        self._apply(FileEvent.WRITE_STARTED)
        changes, self._dirty = self._dirty, Changes()
        self._flight = self._as_flight(changes, self._is_append)
        if is_split:
            del self._append_starts[0]
            self._flight = replace(self._flight, size=self._append_starts[0])
            self._dirty = changes.split(self._flight.size)
            self._apply(FileEvent.MODIFIED)
        else:
            self._append_starts.clear()
            self._is_append = True
        return self._flight

    def finish_write(self, version: int) -> int:
        """The flight is stored; return how many bytes are held no more."""
        flight = self.current_flight
        assert flight.changes.mtime_s is not None
        stored_posix = flight.changes.posix or flight.base.posix
        self.base = ObjectStat(flight.size, flight.changes.mtime_s, version, posix=stored_posix)
        self.is_new = False
        self.attempts.clear()
        self._flight = None
        self._apply(FileEvent.WRITE_SUCCEEDED)
        return flight.changes.extents.byte_count

    def fail_write(self, error: RadosmountError, begun: PartlyStored | None) -> int:
        """The flight is not stored, or not all: `take_back` and `note_error`."""
        self.note_error(error)
        return self.take_back(begun)

    def note_error(self, error: RadosmountError) -> None:
        self.error = error
        self.error_count += 1
        if self.writer_count:
            self.reported_error_count = self.error_count  # those who have it open will hear

    def take_back(self, begun: PartlyStored | None) -> int:
        """The flight's bytes are dirty again, under what was written since. Return how many bytes
        are held twice no more.

        `begun`: the object at its last known version, where the first operation was stored.
        """
        flight = self.current_flight
        held = flight.changes.extents.byte_count + self._dirty.extents.byte_count
        changes = flight.changes
        self._is_append = self._is_append and flight.is_append
        self._append_starts.insert(0, flight.base.size)
        if begun is not None:
            self.base, self.is_new = begun, False
            self._is_append = False  # some of it is stored: moving that would double it
            changes = replace(changes, cut=None, xattrs={})
        changes.absorb(self._dirty)
        self._dirty = changes
        self._flight = None
        self._apply(FileEvent.WRITE_FAILED)
        return held - changes.extents.byte_count

    @property
    def can_move_appended(self) -> bool:
        """Whether all that the store does not have was appended to an object that it has."""
        flight = self._flight
        return flight is not None and flight.is_append and not flight.is_new and self._is_append

    def move_appended(self, base: ObjectStat, start: int | None = None) -> None:
        """Someone else appended first: put what we append behind it (POSIX O_APPEND).

        `start`: up to where our own bytes are stored already, at their place.
        """
        assert self.can_move_appended
        flight = self.current_flight
        is_ours_alone = start == base.size
        start = flight.base.size if start is None else start
        delta = base.size - start
        for changes in (flight.changes, self._dirty):
            changes.extents = changes.extents.shifted(start, delta)
            if changes.posix is not None:
                before, theirs = self.base.posix or posix.NONE, base.posix or posix.NONE
                changes.posix = posix.merged(changes.posix, before, theirs)
        self._append_starts = [at + delta for at in self._append_starts]
        self._flight = replace(flight, base=base, size=flight.size + delta)
        self.base = base
        self.size += delta
        if not is_ours_alone:
            self.foreign.note()
        self.attempts.clear()  # all were guarded by a version that is gone
        self.epoch += 1

    def adopt(self, base: ObjectStat) -> None:
        """An attempt was applied, and nothing else: the flight is stored anew, upon that."""
        self._flight = replace(self.current_flight, base=base, is_new=False, is_append=False)
        self.base, self.is_new = base, False
        self.epoch += 1

    @property
    def has_many_attempts(self) -> bool:
        return len(self.attempts) >= ATTEMPT_COUNT_MANY

    def remember_attempt(self, attempt: Attempt) -> None:
        """The oldest stay: an OSD that was stopped applies what it was sent in that order."""
        if attempt not in self.attempts and len(self.attempts) < ATTEMPT_COUNT_MAX:
            self.attempts.append(attempt)

    def outdate_attempts(self, version: int) -> None:
        """The object is at `version`, still as `base`: what was lost is refused there."""
        base = replace(self.base, version=version)
        self._flight = replace(self.current_flight, base=base)
        self.base = base
        self.attempts.clear()
        self.epoch += 1

    # Hearing of the store

    def observe(self, stat: ObjectStat) -> bool:
        """The store says so; return whether the content may differ from what we knew.

        Only a CLEAN file learns: what is dirty was opened at `base`, and its flush will be
        refused where the object is not that one any more.
        """
        if not self.is_clean or stat.version < self.base.version:
            return False
        is_changed = stat.version != self.base.version
        if is_changed and not self.attempts:
            self.foreign.observe(stat.version)
        self.stored = None if is_changed else self.stored
        self.attempts.clear()  # what was lost is in it, or never comes: an OSD keeps the order
        self.is_suspect = False
        self.base = stat
        self.size = stat.size
        return is_changed

    def has_changed_since(self, change_count: int | None) -> bool:
        """Whether someone else has, since there were so many foreign changes; None: no matter."""
        if change_count is None or self.orphan is not None:
            return False
        return self.foreign.has_any_since(change_count)

    def check_unchanged(self, change_count: int | None) -> None:
        """Raises: StaleFile."""
        if self.has_changed_since(change_count):
            raise StaleFile(f"{self.key.name!r} was changed by someone else")

    def take_change(self, now: ObjectStat, is_as_bare: bool) -> None:
        """We have changed the object at `base` beside its content: it is `now`.

        `is_as_bare`: and have given it neither xattrs nor omap.
        """
        if self.is_known_bare and is_as_bare:
            self.bare_version = now.version
        content = self.known_content
        if content is not None:
            self.stored = replace(content, version=now.version)
        self.attempts.clear()  # as in `observe`
        self.base = now
        self.epoch += 1

    def take_observed_change(self, version: int) -> None:
        """We have changed the object at `version`, which was observed before we heard of it."""
        self.foreign.take_back(version)

    def take_base(self, source: ObjectStat, version: int) -> None:
        """The object was moved, and is at `version` now; `source` is what it was before: if that
        is not what we knew, someone else has changed it."""
        is_known = source.version == self.base.version
        self.base = replace(source, version=version)
        self.stored = None
        if self.is_clean:
            self.size = source.size
            self.is_suspect = self.is_suspect or not is_known
            if not is_known:
                self.foreign.note()
        self.epoch += 1

    def discard(self) -> int:
        """Forget what is dirty; return how many bytes were held. Not during a flush."""
        assert self._flight is None
        held = self._dirty.extents.byte_count
        self._dirty = Changes()
        self._append_starts.clear()
        self.stored = None
        self.size = self.base.size
        self.state = FileState.CLEAN
        self.epoch += 1
        return held

    def unstored(self) -> Flight:
        """A copy of all that the store does not have, as one flight that has not left.

        What a flush has under way is in it, too: that may yet be stored, or not.
        """
        changes = Changes()
        if self._flight:
            changes.absorb(self._flight.changes)
        changes.absorb(self._dirty)
        was_append = self._flight is None or self._flight.is_append
        return self._as_flight(changes, self._is_append and was_append)

    def give_up(self) -> Flight:
        """Discard what is dirty, and return it. Not during a flush."""
        given_up = self._as_flight(self._dirty, self._is_append)
        self.discard()
        return given_up

    def _as_flight(self, changes: Changes, is_append: bool) -> Flight:
        if changes.mtime_s is None:
            changes.mtime_s = self.base.mtime_s
        return Flight(changes, self.base, self.is_new, self.size, is_append)

    def _apply(self, event: FileEvent) -> None:
        self.state = TRANSITIONS[self.state, event]
        if event is FileEvent.MODIFIED:
            self.stored = None
        self.epoch += 1


def _xattr_bytes(staged: dict[bytes, bytes | None]) -> int:
    return sum(XATTR_EXTRA_BYTES + len(name) + len(value or b"") for name, value in staged.items())
