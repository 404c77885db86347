"""What the tests of the cache and of the file system stand on: names, calls, and a cache that
runs over a memory store."""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace

import trio

from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.cache.sequencer import Sequencer
from radosmount.cache.spool import Spool, Spooler
from radosmount.config import CacheConfig
from radosmount.errors import StoreError, TimedOut
from radosmount.store.interface import Limits, ObjectKey, ObjectStat
from radosmount.store.memory import Call, MemoryStore
from radosmount.store.posix import NS_PER_S

POOL_ID = 1


def key_of(name: bytes, pool_id: int = POOL_ID) -> ObjectKey:
    return ObjectKey(pool_id, b"", name)


def is_apply(call: Call) -> bool:
    return call.method == "apply"


def is_call(method: str) -> Callable[[Call], bool]:
    return lambda call: call.method == method


def makes(call: Call) -> bool:
    return is_apply(call) and "Create()" in repr(call.change)


def removes(call: Call) -> bool:
    return is_apply(call) and "Remove()" in repr(call.change)


@contextlib.contextmanager
def noted(store: MemoryStore) -> Iterator[list[str]]:
    """The methods that are called inside, in order, that are about an object."""
    calls: list[str] = []

    async def note(call: Call) -> None:
        if call.key is not None:
            calls.append(call.method)

    assert store.delay is None
    store.delay = note
    try:
        yield calls
    finally:
        store.delay = None


class StoppedOsd:
    """From now on it answers nothing. What it was sent lies before it, in order; `wake` has it do
    that, but for what was lost on the way."""

    def __init__(self, store: MemoryStore) -> None:
        assert store.delay is None
        self._store = store
        self.sent: list[Call] = []
        store.delay = self._leave_unanswered

    async def wake(self, lost_count: int = 0) -> None:
        """`lost_count`: how many of the first changes have never reached it."""
        self._store.delay = None
        changes = [
            (call.key, call.change)
            for call in self.sent
            if call.key is not None and call.change is not None
        ]
        for key, change in changes[lost_count:]:
            with contextlib.suppress(StoreError):  # nobody is left to hear it
                await self._store.apply(key, change)

    async def _leave_unanswered(self, call: Call) -> None:
        self.sent.append(call)
        raise TimedOut("the OSD is stopped")


def small_store() -> MemoryStore:
    """A store whose operations carry 8 bytes, so that a few bytes are a flush of several."""
    return MemoryStore(Limits(object_bytes_max=1000, operation_bytes_max=8))


class CacheBench:
    """A page cache over a memory store, with what vfs does to it in the tests' hands."""

    def __init__(
        self, nursery: trio.Nursery, store: MemoryStore | None = None, **settings: object
    ) -> None:
        self.store = store or MemoryStore()
        self.config = replace(CacheConfig(), **settings)  # type: ignore[arg-type]
        self.sequencer = Sequencer(nursery, self.config.timeout_s)
        directory = self.config.spool_directory
        spool = None if directory is None else Spool(directory, "ceph", "radosmount restore")
        self.spooler = None if spool is None else Spooler(spool, nursery)
        self.cache = PageCache(self.store, self.config, self.sequencer, spooler=self.spooler)

    def new_file(
        self, name: bytes = b"f", writer_count: int = 1, pool_id: int = POOL_ID
    ) -> CachedFile:
        file = CachedFile(key_of(name, pool_id), None)
        file.writer_count = writer_count
        self.cache.set_mtime(file, 1_500_000_000 * NS_PER_S)
        return file

    def stored_file(self, content: bytes, name: bytes = b"f") -> CachedFile:
        """An object that was there before, open for writing."""
        self.store.put_now(key_of(name), content)
        file = CachedFile(key_of(name), self.stat(name))
        file.writer_count = 1
        return file

    def stat(self, name: bytes = b"f") -> ObjectStat:
        found = self.store.stat_now(key_of(name))
        assert found is not None
        return found

    def stored(self, name: bytes = b"f") -> bytes | None:
        return self.store.read_now(key_of(name))


async def content(bench: CacheBench, file: CachedFile) -> bytes:
    return bytes(await bench.cache.read(file, 0, 1000))


def traceback_depth(error: BaseException) -> int:
    """How many frames an exception holds, and what is in them."""
    return sum(1 for _ in traceback.walk_tb(error.__traceback__))
