"""Reading ahead of programs that read a file from one end to the other.

A kernel that does not read ahead far itself (it does on mounts by root) sends one or two small
READs at a time, and each would be a round trip. Here chunks of what a handle will come to are
fetched in the background (which, says `scan`), and its reads are answered from them.

- A chunk is used only while the file is clean and at the version that the chunk has; else the
  read goes the usual way. So an answer is of one version, and as new as that of the store.
- Chunks of all handles together stay within the budget; where there is no room none is fetched.
- A fetch that fails is nobody's business: who wants those bytes asks the store. But who has
  waited for a fetch until it timed out does not wait that long again.
"""

import logging
from collections.abc import Sequence
from typing import Final

import trio

from radosmount import switching
from radosmount.background import contained
from radosmount.cache.budget import Budget
from radosmount.cache.extents import Buffer
from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.cache.scan import Scan
from radosmount.config import MIB
from radosmount.errors import RadosmountError, TimedOut
from radosmount.store.interface import ObjectKey, ObjectStat, Store

log = logging.getLogger(__name__)

# Of all handles together: well below what the store lets one pool have in flight.
FETCH_COUNT_MAX: Final = 8
# A handle that has so much of its own in flight has a kernel that reads ahead by itself.
DEEP_BYTES: Final = 1 * MIB
# A handle that has not read for so long may lose its chunks to others.
IDLE_S: Final = 5.0


class Chunk:
    """Bytes that are on their way (`arrival` is not set), here (`data`), or not coming."""

    __slots__ = ("arrival", "data", "end", "error", "is_dropped", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset = offset
        self.end = offset + length
        self.arrival = trio.Event()
        self.data: bytes | None = None
        self.error: RadosmountError | None = None
        self.is_dropped = False  # by the handle: nobody will read it

    @property
    def byte_count(self) -> int:
        return self.end - self.offset


class HandleAhead:
    """What is known of one handle's reads, and the chunks fetched for it, in order of offset.

    All chunks are of the object `key` at `version`, and adjoin."""

    __slots__ = ("asked_bytes", "chunks", "is_deep", "key", "read_s", "scan", "version")

    def __init__(self) -> None:
        self.scan = Scan()
        self.chunks: list[Chunk] = []
        self.key: ObjectKey | None = None
        self.version = 0
        self.read_s = 0.0  # the last read (trio's clock)
        self.asked_bytes = 0  # reads under way that ask the store themselves
        self.is_deep = False  # the kernel was seen to read ahead

    def is_of(self, file: CachedFile) -> bool:
        """Whether the chunks are what the file has."""
        return (
            file.is_clean
            and not file.is_suspect
            and not file.is_unlinked
            and file.base.version == self.version
            and file.key == self.key
        )

    def covering(self, offset: int, length: int) -> list[Chunk]:
        """The chunks, of which there are some, that together have these bytes, or will have; none
        if one is missing."""
        end, chunks = offset + length, self.chunks
        if offset < chunks[0].offset or end > chunks[-1].end:
            return []
        return [chunk for chunk in chunks if chunk.offset < end and chunk.end > offset]


class ReadAhead:
    """Of one mount: reads by handle, above the page cache. `nursery` is for the fetches."""

    def __init__(
        self, store: Store, cache: PageCache, nursery: trio.Nursery, limit_bytes: int
    ) -> None:
        self._store = store
        self._cache = cache
        self._nursery = nursery
        self._budget = Budget(limit_bytes)
        self._holders: dict[HandleAhead, None] = {}  # those that have chunks
        self._fetch_count = 0

    @property
    def held_bytes(self) -> int:
        return self._budget.held_bytes

    async def read(self, ahead: HandleAhead, file: CachedFile, offset: int, length: int) -> Buffer:
        """As `PageCache.read`. Does not wait where the bytes are here."""
        chunks = self._note_read(ahead, file, offset, length)
        if chunks:
            content = await _content(ahead, chunks, file, offset, length)
            if content is not None:
                return content
        ahead.asked_bytes += length
        try:
            return await self._cache.read(file, offset, length)
        finally:
            ahead.asked_bytes -= length

    def close(self, ahead: HandleAhead) -> None:
        """The handle is gone."""
        if ahead.chunks:
            self._drop(ahead)

    def _note_read(
        self, ahead: HandleAhead, file: CachedFile, offset: int, length: int
    ) -> list[Chunk]:
        """Have fetched what will be read after it; return the chunks that it is read from."""
        if not ahead.is_of(file):
            self._drop(ahead)
            if not file.is_clean or file.is_suspect or file.is_unlinked:
                ahead.scan.forget()
                return []
            ahead.key, ahead.version = file.key, file.base.version
        length = min(length, file.size - offset)
        if length <= 0:
            return []
        chunks = ahead.covering(offset, length) if ahead.chunks else []
        if not ahead.scan.note(offset, length):
            self._drop(ahead)
            ahead.is_deep = False
        if ahead.chunks:
            self._drop_passed(ahead)
        ahead.is_deep = ahead.is_deep or ahead.asked_bytes >= DEEP_BYTES
        if ahead.scan.window_bytes and not ahead.is_deep:
            ahead.read_s = switching.current_time()
            self._fetch_next(ahead, file)
        return chunks

    def _fetch_next(self, ahead: HandleAhead, file: CachedFile) -> None:
        while self._fetch_count < FETCH_COUNT_MAX:
            others = len(self._holders) - (ahead in self._holders)
            window_bytes_max = self._budget.limit_bytes // (others + 1)
            wanted = ahead.scan.next_chunk(file.size, window_bytes_max)
            if wanted is None or not self._reserve(wanted[1]):
                return
            if ahead not in self._holders:
                log.debug("%r: reading ahead from %d", file.key.name, wanted[0])
            self._start_fetch(ahead, file, Chunk(*wanted))

    def _start_fetch(self, ahead: HandleAhead, file: CachedFile, chunk: Chunk) -> None:
        assert not ahead.chunks or ahead.chunks[-1].end == chunk.offset
        ahead.chunks.append(chunk)
        ahead.scan.note_fetch(chunk.end)
        self._holders[ahead] = None
        self._fetch_count += 1
        self._nursery.start_soon(self._work, ahead, file, chunk, file.key, file.base)

    async def _work(
        self, ahead: HandleAhead, file: CachedFile, chunk: Chunk, key: ObjectKey, base: ObjectStat
    ) -> None:
        with contained("reading ahead"):
            try:
                await self._fetch(file, chunk, key, base)
            except RadosmountError as failure:
                chunk.error = failure
            finally:
                self._note_arrival(ahead, chunk)

    async def _fetch(
        self, file: CachedFile, chunk: Chunk, key: ObjectKey, base: ObjectStat
    ) -> None:
        result = await self._store.read(key, chunk.offset, chunk.byte_count)
        if result.version == base.version:
            chunk.data = result.data
        elif file.is_clean and file.base == base and file.key == key:
            file.is_suspect = True

    def _note_arrival(self, ahead: HandleAhead, chunk: Chunk) -> None:
        """It is here, or will not come."""
        self._fetch_count -= 1
        chunk.arrival.set()
        if chunk.is_dropped:
            self._budget.release(chunk.byte_count)
        elif chunk.data is None:
            self._drop(ahead)
            ahead.scan.forget()

    def _reserve(self, byte_count: int) -> bool:
        """Room for a chunk, if need be that of handles that have not read for long."""
        if self._budget.try_reserve(byte_count):
            return True
        idle_since_s = switching.current_time() - IDLE_S
        for ahead in [ahead for ahead in self._holders if ahead.read_s < idle_since_s]:
            self._drop(ahead)
            if self._budget.try_reserve(byte_count):
                return True
        return False

    def _drop_passed(self, ahead: HandleAhead) -> None:
        """Who reads on does not come back."""
        passed = 0
        while passed < len(ahead.chunks) and ahead.chunks[passed].end <= ahead.scan.end:
            self._release(ahead.chunks[passed])
            passed += 1
        if passed:
            del ahead.chunks[:passed]
            if not ahead.chunks:
                del self._holders[ahead]

    def _drop(self, ahead: HandleAhead) -> None:
        if ahead.chunks:
            for chunk in ahead.chunks:
                self._release(chunk)
            ahead.chunks.clear()
            del self._holders[ahead]
        ahead.scan.note_loss()

    def _release(self, chunk: Chunk) -> None:
        """What is under way is held until it arrives."""
        chunk.is_dropped = True
        if chunk.arrival.is_set():
            self._budget.release(chunk.byte_count)


async def _content(
    ahead: HandleAhead, chunks: Sequence[Chunk], file: CachedFile, offset: int, length: int
) -> Buffer | None:
    """What the chunks have, without a copy if it is one; None where the store is to be asked.

    Raises: TimedOut where that was waited for.
    """
    version = ahead.version
    for chunk in chunks:
        if not chunk.arrival.is_set():
            await chunk.arrival.wait()
            if isinstance(chunk.error, TimedOut):
                raise chunk.error
    if ahead.version != version or not ahead.is_of(file):
        return None
    end = min(offset + length, file.size)
    parts: list[Buffer] = []
    for chunk in chunks:
        if chunk.data is None:
            return None
        start, stop = max(offset, chunk.offset), min(end, chunk.end)
        is_whole = stop - start == chunk.byte_count
        view = memoryview(chunk.data)[start - chunk.offset : stop - chunk.offset]
        parts.append(chunk.data if is_whole else view)
    return parts[0] if len(parts) == 1 else b"".join(parts)
