"""A file system whose reads are recorded, and readers that read one of its files sequentially."""

import contextlib
import random
from collections.abc import AsyncIterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from radosmount.cache.readahead import Chunk
from radosmount.config import KIB, MIB
from radosmount.errors import Disconnected
from radosmount.store.interface import ObjectKey, ReadResult
from radosmount.store.memory import MemoryStore
from tests.support.mounts import MountBench
from tests.support.stores import is_call, key_of

STEP = 128 * KIB
CONTENT = random.Random(1).randbytes(4 * MIB)
OTHER = random.Random(2).randbytes(4 * MIB)
is_read = is_call("read")


class RecordingStore(MemoryStore):
    """Remembers what is read. Of those of more than a STEP replies wait for `reply`, or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[int, int]] = []
        self.reply: trio.Event | None = None
        self.refuses_long = False
        self.parallel_count = self.parallel_count_max = 0

    async def read(self, key: ObjectKey, offset: int, length: int) -> ReadResult:
        self.reads.append((offset, length))
        self.parallel_count += 1
        self.parallel_count_max = max(self.parallel_count, self.parallel_count_max)
        try:
            result = await super().read(key, offset, length)
        finally:
            self.parallel_count -= 1
        if self.refuses_long and length > STEP:
            raise Disconnected("injected")
        if self.reply is not None and length > STEP:
            await self.reply.wait()
        return result

    @property
    def read_bytes(self) -> int:
        return sum(length for _, length in self.reads)


class ReadBench(MountBench):
    store: RecordingStore

    async def begin(self, name: bytes = b"f", content: bytes = CONTENT) -> int:
        """A handle on an object of another client, read three times: what follows is on its
        way."""
        self.store.put_now(key_of(name), content)
        handle = await self.open(name)
        for offset in range(0, 3 * STEP, STEP):
            assert await self.read(handle, offset, STEP) == content[offset : offset + STEP]
        return handle

    async def begin_stalled(self) -> int:
        """A handle whose next chunks do not come: the pause begins with their fetch."""
        assert self.store._resumed is not None
        resumed, self.store._resumed = self.store._resumed, None
        self.store.put_now(key_of(b"f"), CONTENT)
        handle = await self.open(b"f")
        await self.read(handle, 0, STEP)
        await self.read(handle, STEP, STEP)
        self.store._resumed = resumed
        with trio.move_on_after(0) as scope:
            scope.cancel()
            await self.read(handle, 2 * STEP, STEP)
        await wait_all_tasks_blocked()
        return handle

    async def read_through(self, handle: int, start: int = 0, step: int = STEP) -> bytes:
        parts: list[bytes] = []
        while part := await self.read(handle, start, step):
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def at_once(self, handle: int, offset: int, length: int) -> object:
        """A read that must not wait."""
        coroutine = self.fs.read(handle, offset, length)
        with pytest.raises(StopIteration) as end:
            coroutine.send(None)
        return end.value.value

    @property
    def held_bytes(self) -> int:
        return self.fs._opens.ahead.held_bytes

    def chunks(self, handle: int) -> list[Chunk]:
        """What is fetched ahead for it."""
        ahead = self.fs._opens.handles[handle].ahead
        assert ahead is not None
        return ahead.chunks


@contextlib.asynccontextmanager
async def read_bench(nursery: trio.Nursery) -> AsyncIterator[ReadBench]:
    """Nothing is held in the end, when all handles are closed."""
    bench = ReadBench(nursery, RecordingStore())
    await bench.fs.start()
    yield bench
    await wait_all_tasks_blocked()
    for handle in list(bench.fs._opens.handles):
        await bench.close(handle)
    await wait_all_tasks_blocked()
    assert bench.held_bytes == 0
    assert bench.fs._opens.ahead._holders == {}
