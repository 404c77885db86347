"""The write-back page cache: reads and writes of files, and when the store hears of them.

The layer's face. What a file is at any moment is `file`'s business, which operations make a
flush is `plan`'s and `flush`'s; here is who waits for what, within which bounds.

- Writers wait only for room (the budget), never for the store write of their own bytes.
- A flush runs in the background nursery and cannot be cancelled; whoever wants it waits on its
  ticket, until nothing was acknowledged for `timeout`.
- A failed flush keeps its bytes. Transient failures are tried again here; every handle that was
  open hears once. What failed for good goes to the spool at the last close.
"""

import functools
import logging
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import trio

from radosmount import switching
from radosmount.background import contained
from radosmount.cache.budget import Budget
from radosmount.cache.extents import Buffer, lay_over
from radosmount.cache.file import CachedFile
from radosmount.cache.flush import Flusher, FlushFailed
from radosmount.cache.rescue import Rescue
from radosmount.cache.room import Room
from radosmount.cache.schedule import Schedule
from radosmount.cache.sequencer import Sequencer
from radosmount.cache.spool import Spooler
from radosmount.cache.stalls import Stalls
from radosmount.cache.ticket import Ticket
from radosmount.config import MIB, CacheConfig, FlushMode
from radosmount.errors import (
    DeadlineExceeded,
    FilesystemError,
    FileTooBig,
    ObjectGone,
    ObjectNotFound,
    StaleFile,
    StoreError,
    StoreFailure,
)
from radosmount.store.interface import Notice, ObjectKey, Store
from radosmount.store.posix import NS_PER_S, Posix

log = logging.getLogger(__name__)

# A file that streams is flushed from this on: a few operations in flight at once.
STREAM_BYTES: Final = 8 * MIB
TICK_S: Final = 1.0
# How long a file of which RADOS has nothing may wait for its writer to become one operation.
HELD_BACK_S: Final = 60.0


class PageCache:
    """All files of one mount. Methods without `async` are atomic."""

    def __init__(
        self,
        store: Store,
        config: CacheConfig,
        sequencer: Sequencer,
        on_flushed: Callable[[CachedFile], None] = lambda file: None,
        spooler: Spooler | None = None,
        unlink_gone: Callable[[CachedFile], bool] = lambda file: False,
    ) -> None:
        """`on_flushed(file)`: called when a flush of `file` has ended, well or not. Without a
        `spooler`, what can never be stored is lost. `unlink_gone(file)`: called in its turn when
        its object is not there; says whether this mount has removed it, and unlinks it then."""
        self._store = store
        self._config = config
        self._sequencer = sequencer
        self._on_flushed = on_flushed
        self._rescue = Rescue(store, spooler)
        self._unlink_gone = unlink_gone
        self._spooled_at_end: set[CachedFile] = set()
        self._is_ending = False
        # Half is for what is written and not stored, an eighth for what is read ahead; the rest,
        # in equal parts, for the copies that operations in flight carry and librados's of those.
        self._budget = Budget(config.size_bytes // 2)
        self._stream_bytes = min(STREAM_BYTES, config.size_bytes // 8)
        self._in_flight = Budget(config.size_bytes * 3 // 16)
        self._stalls = Stalls()
        self._room = Room(store, self._budget, self._stalls)
        self._flusher = Flusher(store, config, self._in_flight, self._stalls, self._note_progress)
        self._dirty: dict[CachedFile, Schedule] = {}
        self._has_dirty = trio.Event()
        self._progress_s = 0.0
        self.advanced_s = 0.0  # as that, but not of what a flush repeats that has failed before

    @property
    def dirty_files(self) -> tuple[CachedFile, ...]:
        """Files with something that the store does not have."""
        return tuple(self._dirty)

    @property
    def held_bytes(self) -> int:
        return self._budget.held_bytes

    # Reading

    async def read(self, file: CachedFile, offset: int, length: int) -> Buffer:
        """At most `length` bytes from `offset`, fewer only at the end of the file.

        Raises: StaleFile where the object is gone; StoreError.
        """
        if file.orphan is not None:
            return file.orphan.read(offset, length)
        length = min(length, file.size - offset)
        if length <= 0:
            return b""
        held = [] if file.is_clean else file.held_within(offset, length)
        if not file.is_clean and file.covers(offset, length):
            content = bytearray(length)
            lay_over(content, offset, held)
            return content
        return await self._read_store(file, offset, length, held)

    async def _read_store(
        self, file: CachedFile, offset: int, length: int, held: list[tuple[int, bytes]]
    ) -> Buffer:
        """`held` was copied before: it may be stored, and held no more, when the store's older
        bytes arrive."""
        is_clean, key = file.is_clean, file.key
        base_length = min(length, file.base_limit - offset)
        try:
            result = await self._store.read(key, offset, base_length)
        except ObjectNotFound as failure:
            if file.orphan is None and file.key == key:
                raise StaleFile(f"{key.name!r} was removed") from failure
        if file.orphan is not None or file.key != key:  # unlinked or renamed meanwhile
            return await self.read(file, offset, length)
        if is_clean and file.is_clean:
            file.is_suspect = file.is_suspect or result.version != file.base.version
            return result.data
        content = bytearray(length)
        content[: len(result.data)] = result.data
        lay_over(content, offset, held)
        lay_over(content, offset, file.held_within(offset, length))
        return content

    # Writing

    async def write(
        self,
        file: CachedFile,
        offset: int,
        data: bytes,
        is_append: bool = False,
        change_count: int | None = None,
    ) -> None:
        """Overwrite from `offset`; with `is_append` put `data` at the end instead.

        `change_count`: how many foreign changes of the file the writer knows of; None: any.
        Returns when the bytes are held; with `flush=sync`, when they are stored.
        Raises: FileTooBig; StaleFile; DeadlineExceeded where no room came for `timeout`; with
        `flush=sync` the flush's error.
        """
        self._check_storable(file, file.size if is_append else offset, len(data))
        await self._reserve(file, len(data))
        offset = file.size if is_append else offset
        try:
            self._check_change(file, offset + len(data))
            file.check_unchanged(change_count)  # others may have been there while this one waited
        except FilesystemError:
            self._budget.release(len(data))
            raise
        if file.orphan is not None:
            self._budget.release(len(data))
            file.orphan.write(offset, data)
            file.size = max(file.size, offset + len(data))
            file.set_orphan_mtime(time.time_ns())
            return
        now_ns = time.time_ns()
        grown = file.write(offset, data, now_ns // NS_PER_S, is_append)
        self._stamp(file, now_ns)
        self._budget.release(len(data) - grown)
        self._note_dirty(file)
        if self._config.flush is FlushMode.SYNC:
            await self.flush(file)
        elif file.dirty_byte_count >= self._stream_bytes and self._may_stream(file):
            self._start_flush(file)

    def truncate(self, file: CachedFile, size: int) -> None:
        """Set the size, to be stored by the next flush. Raises: FileTooBig; StaleFile."""
        self._check_change(file, size)
        if file.orphan is not None:
            file.orphan.truncate(size)
            file.size = size
            file.set_orphan_mtime(time.time_ns())
            return
        now_ns = time.time_ns()
        self._budget.release(file.truncate(size, now_ns // NS_PER_S))
        self._stamp(file, now_ns)
        self._note_dirty(file)

    def set_mtime(self, file: CachedFile, mtime_ns: int) -> None:
        """Set the mtime, to be stored by the next flush; without `posix` in whole seconds."""
        file.set_mtime(mtime_ns // NS_PER_S)
        self._stamp(file, mtime_ns)
        self._note_dirty(file)

    def stage_posix(self, file: CachedFile, wanted: Posix) -> None:
        """Set what posix attributes there are, to be stored by the next flush."""
        file.stage_posix(wanted)
        self._note_dirty(file)

    def stage_xattr(self, file: CachedFile, name: bytes, value: bytes | None) -> None:
        """Set or (None) remove one, to be stored by the next flush. Raises: XattrSpaceExceeded."""
        file.stage_xattr(name, value)
        self._note_dirty(file)

    def discard(self, file: CachedFile) -> None:
        """Forget what is not stored, since the file itself goes. In the file's turn only."""
        self._budget.release(file.discard())
        self._forget(file)

    def move_to_orphan(self, file: CachedFile) -> None:
        """`file.orphan` has the base: lay what is held over it. In the file's turn only."""
        orphan = file.orphan
        assert orphan is not None
        size, known_posix, mtime_s = file.size, file.posix, file.mtime_s
        orphan.truncate(min(file.base_limit, size))
        for offset, data in file.held_within(0, size):
            orphan.write(offset, data)
        orphan.truncate(size)
        self.discard(file)
        file.size = size
        file.base = replace(file.base, mtime_s=mtime_s, posix=known_posix)
        file.is_suspect = False  # the store does not count any more

    # Flushing

    async def flush(self, file: CachedFile, notice: Notice | None = None) -> None:
        """Wait until the store has everything that was written before the call, or until a
        flush of it has failed (see `CachedFile.error_count`). `notice`: sent with the
        acknowledgement, where one operation is all.

        Raises: DeadlineExceeded once nothing was acknowledged for `timeout`, see `Schedule`.
        """
        while (schedule := self._dirty.get(file)) is not None:
            ticket = self._start_flush(file, notice)
            progress_s = functools.partial(getattr, schedule, "progress_s")
            if await self._sequencer.settle(ticket, progress_s, file.key, schedule.asked_s):
                break  # else it was renamed meanwhile: once more, under its new name

    async def flush_in_turn(self, file: CachedFile) -> None:
        """The same for an operation of the sequencer, in the file's turn. Raises: StoreError."""
        while file.needs_flush:
            error_count = file.error_count
            await self._store_once(file)
            if file.error_count != error_count:
                assert file.error is not None
                raise file.error.with_traceback(None)
        if file.is_clean:
            self._forget(file)

    async def run(self) -> None:
        """Write back what has waited long enough, and try again what failed. Until the end."""
        while not self._is_ending:
            if not self._dirty:
                self._has_dirty = trio.Event()
                await self._has_dirty.wait()
            await trio.sleep(min(TICK_S, self._config.dirty_expire_s))
            for step in (self._look_for_stalls, self._flush_due, self._relieve):
                with contained("writing back"):
                    step()

    def give_up(self, file: CachedFile) -> None:
        """Let go of what cannot ever be stored: the spool takes it, and the log says so.

        The file has the store's bytes again at once; the spool's count in the budget until they
        are on disk. In the file's turn, or without one; not during a flush.
        """
        attempts = file.attempts
        given_up = file.give_up()
        file.is_suspect = True  # the kernel has what is given up
        self._forget(file)
        byte_count = given_up.changes.extents.byte_count
        self._rescue.keep(file, given_up, attempts, lambda: self._budget.release(byte_count))

    async def spool_unstored(self) -> None:
        """At the end: put all that is not stored into the spool, and wait until it is there.

        What a flush has under way is spooled, too, and may yet be stored: writing it back then
        finds that out. No flush begins after this.
        """
        self._is_ending = True
        if not self._rescue.has_spool:
            return
        for file in self.dirty_files:  # one by one: each is copied first
            if file in self._dirty and file not in self._spooled_at_end:
                self._spooled_at_end.add(file)
                attempts = list(file.attempts)
                if file.is_in_flight:
                    attempts.append(self._flusher.attempt_of(file.current_flight))
                self._rescue.keep(file, file.unstored(), attempts)
                await self._rescue.settle()
        await self._rescue.settle()

    def has_failed_for_good(self, file: CachedFile) -> bool:
        """Whether the last flush failed in a way that trying again does not mend."""
        return self.has_failed(file) and self._dirty[file].has_failed_for_good

    def has_failed(self, file: CachedFile) -> bool:
        """Whether the last flush failed, and none is under way."""
        is_idle = file in self._dirty and not self._dirty[file].is_under_way
        return is_idle and self._dirty[file].is_failing and not file.is_in_flight

    def _start_flush(self, file: CachedFile, notice: Notice | None = None) -> Ticket[bool]:
        schedule = self._dirty[file]
        if schedule.queued is not None:
            return schedule.queued
        if schedule.running is not None and not file.needs_flush:
            return schedule.running
        key = file.key
        ticket = self._sequencer.submit(key, self._run_flush, file, key, notice)
        schedule.ask(ticket, switching.current_time())
        return ticket

    def _flush_due(self) -> None:
        now_s = switching.current_time()
        for file, schedule in list(self._dirty.items()):
            with contained("writing a file back"):
                is_due = schedule.is_due(now_s, self._config.dirty_expire_s)
                if is_due and (schedule.is_failing or not self._is_held_back(file)):
                    self._start_flush(file)

    async def _run_flush(self, file: CachedFile, key: ObjectKey, notice: Notice | None) -> bool:
        """An operation of the sequencer. False: this is not the turn of the file's key any more."""
        schedule = self._dirty.get(file)
        if schedule is None:
            return True
        schedule.running, schedule.queued = schedule.queued, None
        try:
            if file.key != key:
                return False
            for _ in range(file.flight_count):
                if self._is_ending:
                    raise DeadlineExceeded(f"{key.name!r}: the mount is ending")
                if not await self._store_once(file, notice):
                    break
            return True
        finally:
            schedule.running = None
            self._after_flush(file)

    async def _store_once(self, file: CachedFile, notice: Notice | None = None) -> bool:
        """One flight, whatever comes of it: the file changes state in either case. Return whether
        it is stored and more is dirty. The `notice` goes with the last one."""
        file.start_write(self._config.atomic_max_bytes)
        try:
            version = await self._flusher.store_flight(file, None if file.needs_flush else notice)
        except FlushFailed as failure:
            self._budget.release(file.take_back(failure.begun))
            if not (isinstance(failure.cause, ObjectGone) and self._unlink_gone(file)):
                file.note_error(failure.cause)
                self._note_failure(file, failure.cause)
        except BaseException as bug:
            if isinstance(bug, trio.Cancelled):  # the operation itself goes on
                file.remember_attempt(self._flusher.attempt_of(file.current_flight))
            self._budget.release(file.fail_write(StoreFailure(repr(bug)), None))
            raise
        else:
            self._budget.release(file.finish_write(version))
            self._note_success(file)
            return file.needs_flush
        return False

    # Keeping count

    def _stamp(self, file: CachedFile, mtime_ns: int) -> None:
        if self._config.has_posix:
            file.stage_posix(replace(file.posix, mtime_ns=mtime_ns))

    def _check_change(self, file: CachedFile, size: int) -> None:
        """Raises: FileTooBig; StaleFile."""
        if file.is_unlinked and file.orphan is None:
            raise StaleFile(f"{file.key.name!r} was removed")
        if size > self._store.limits.object_bytes_max:
            raise FileTooBig(f"{file.key.name!r}: {size} bytes")

    def _check_storable(self, file: CachedFile, offset: int, byte_count: int) -> None:
        """What can never be stored does not fill the cache, and what cannot be stored now leaves
        half of the room to other files. Raises: the flush's error, or its pool's."""
        refusal = self._stalls.refusal_of(file, offset + byte_count)
        if refusal is None or file.orphan is not None:
            return
        is_lost = file.unstored_byte_count >= self._stream_bytes and self.has_failed_for_good(file)
        held = sum(one.unstored_byte_count for one in self._dirty if self._stalls.is_refused(one))
        if is_lost or held + byte_count > self._budget.limit_bytes // 2:
            raise refusal.with_traceback(None)

    def _may_stream(self, file: CachedFile) -> bool:
        """What failed is tried again in its time only, not at every write."""
        is_waiting = switching.current_time() < self._dirty[file].retry_at_s
        return not is_waiting and not self._is_held_back(file)

    def _is_held_back(self, file: CachedFile) -> bool:
        """Whether it may still go out whole: over an old content whenever its writer ends."""
        is_small = file.size <= self._config.atomic_max_bytes
        if not (file.writer_count and is_small and file.is_rewritten_whole):
            return False
        since_s = self._dirty[file].dirty_since_s if file in self._dirty else math.inf
        return file.base.size > 0 or switching.current_time() < since_s + HELD_BACK_S

    def _note_dirty(self, file: CachedFile) -> None:
        if file not in self._dirty:
            self._dirty[file] = Schedule(switching.current_time())
            self._has_dirty.set()
            self._rescue.note(file)

    def _note_progress(self, file: CachedFile) -> None:
        self._progress_s = switching.current_time()
        self._sequencer.note_progress(file.key)
        schedule = self._dirty.get(file)
        if schedule is not None:
            schedule.progress_s = self._progress_s
        if schedule is None or not schedule.is_failing:
            self.advanced_s = self._progress_s

    def _note_success(self, file: CachedFile) -> None:
        file.heard_s = self.advanced_s = switching.current_time()
        self._dirty[file].succeed(file.heard_s)
        self._stalls.forget(file)

    def _note_failure(self, file: CachedFile, cause: StoreError) -> None:
        log.warning("%r is not stored, its bytes are kept: %s", file.key.name, cause)
        now_s = switching.current_time()
        self._dirty[file].fail(now_s, cause)
        self._stalls.failed(file, now_s)
        self._admit()

    def _after_flush(self, file: CachedFile) -> None:
        if file.is_clean:
            self._forget(file)
        elif self.has_failed_for_good(file) and not file.writer_count and not self._is_ending:
            self.give_up(file)
        if self._budget.has_waiters:
            self._relieve()
        self._on_flushed(file)

    def _forget(self, file: CachedFile) -> None:
        self._dirty.pop(file, None)
        self._stalls.forget(file)

    # Room

    def _look_for_stalls(self) -> None:
        if self._stalls.look(switching.current_time()):
            self._admit()

    def _admit(self) -> None:
        """Others are stalled than before."""
        self._budget.admit()
        self._in_flight.admit()

    async def _reserve(self, file: CachedFile, byte_count: int) -> None:
        """Raises: DeadlineExceeded once nothing was acknowledged for `timeout`: of the file, where
        that is what takes the room, else of any."""
        if self._room.try_take(file, byte_count):
            return
        self._relieve(is_short=True)
        deadline_s = switching.current_time() + self._config.timeout_s
        while True:
            with trio.move_on_at(deadline_s) as scope:
                await self._room.take(file, byte_count)
            if not scope.cancelled_caught:
                return
            progress_s = self._progress_s
            if self._stalls.has(file):
                progress_s = self._dirty[file].progress_s if file in self._dirty else -math.inf
            deadline_s = progress_s + self._config.timeout_s
            if switching.current_time() >= deadline_s:
                raise DeadlineExceeded("the cache is full and nothing of it is being stored")

    def _relieve(self, is_short: bool = False) -> None:
        """Where writers wait for room, flush the largest files; those that are held back for
        an atomic write only where nothing else that is answered is under way."""
        if not is_short and not self._budget.has_waiters:
            return
        now_s = switching.current_time()
        idle = [
            file
            for file, schedule in self._dirty.items()
            if schedule.may_begin(now_s) and file.dirty_byte_count
        ]
        streaming = [file for file in idle if not self._is_held_back(file)]
        for file in streaming:
            self._start_flush(file)
        is_coming = any(
            schedule.is_under_way and not self._stalls.has(file)
            for file, schedule in self._dirty.items()
        )
        if idle and not is_coming:
            self._start_flush(max(idle, key=lambda file: file.dirty_byte_count))
