"""What was fetched ahead of a reader is never older than what the read would have been."""

import contextlib
import os
import random
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from radosmount.cache.file import CachedFile
from radosmount.cache.readahead import HandleAhead
from radosmount.config import KIB, MIB
from radosmount.errors import Disconnected, StaleFile
from radosmount.store.interface import ObjectStat
from radosmount.store.memory import Call
from radosmount.vfs.attributes import AttributeChange
from tests.support.mounts import MountBench, started
from tests.support.readers import CONTENT, OTHER, STEP, ReadBench, is_read, read_bench
from tests.support.schedules import run_seeded
from tests.support.stores import key_of


@pytest.fixture
async def mount(nursery: trio.Nursery) -> AsyncIterator[ReadBench]:
    async with read_bench(nursery) as bench:
        yield bench


async def test_change_behind_the_mount(mount: ReadBench) -> None:
    """The next open sees what another client wrote, also through a handle that had fetched the
    old content."""
    old = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    new = await mount.open(b"f")
    assert await mount.read_through(new) == OTHER
    assert await mount.read_through(old, 3 * STEP) == OTHER[3 * STEP :]


async def test_change_while_chunks_are_fetched(mount: ReadBench) -> None:
    """A chunk of another version is not used, and the file is asked about anew."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    for offset in range(3 * STEP, len(CONTENT), STEP):
        part = await mount.read(handle, offset, STEP)
        assert part in (CONTENT[offset : offset + STEP], OTHER[offset : offset + STEP])
    assert mount.invalidated
    assert await mount.read(handle, 3 * MIB, STEP) == OTHER[3 * MIB : 3 * MIB + STEP]


async def test_never_backwards(mount: ReadBench) -> None:
    """Once a read has seen the new content none sees the old one."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    far = await mount.read(handle, 3 * MIB, STEP)
    assert far == OTHER[3 * MIB : 3 * MIB + STEP]
    assert await mount.read(handle, 3 * STEP, STEP) == OTHER[3 * STEP : 4 * STEP]


async def test_an_answer_that_comes_late(mount: ReadBench, nursery: trio.Nursery) -> None:
    """The kernel would keep it as what the file is by then: it is asked for anew."""
    mount.store.put_now(key_of(b"f"), CONTENT)
    handle, found = await mount.open(b"f"), list[bytes]()
    mount.store.reply = trio.Event()

    async def read() -> None:
        found.append(await mount.read(handle, 0, 2 * STEP))

    nursery.start_soon(read)
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    other = await mount.open(b"f")
    mount.store.reply.set()
    await wait_all_tasks_blocked()
    assert found == [OTHER[: 2 * STEP]]
    await mount.close(other)


async def test_a_suspect_file_is_not_read_from_chunks(mount: ReadBench) -> None:
    """Until it is known what the object is now, the store is asked."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    mount.fs._opens.handles[handle].file.is_suspect = True
    assert await mount.read(handle, 3 * STEP, STEP) == OTHER[3 * STEP : 4 * STEP]


async def test_a_fetch_finds_another_version(mount: ReadBench) -> None:
    """The file is suspect from then on, before anyone has read so far."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.put_now(key_of(b"f"), OTHER)
    mount.at_once(handle, 3 * STEP, STEP)
    await wait_all_tasks_blocked()
    assert mount.fs._opens.handles[handle].file.is_suspect


async def test_a_fetch_finds_what_we_stored(mount: ReadBench) -> None:
    """A version that is other than when the fetch began, but ours, is not suspect."""
    gate = trio.Event()

    async def delay(call: Call) -> None:
        if is_read(call):
            await gate.wait()

    with mount.store.paused():
        handle = await mount.begin_stalled()
        mount.store.delay = delay
    await mount.fs.write(handle, 0, b"new")
    await mount.fs.sync(handle)
    gate.set()
    await wait_all_tasks_blocked()
    assert not mount.fs._opens.handles[handle].file.is_suspect


async def test_an_xattr_changes_the_version(mount: ReadBench) -> None:
    """What was fetched is of another version then, and fetched anew."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    await mount.fs.set_xattr((await mount.stat(b"f")).ino, b"user.k", b"v")
    assert await mount.read(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 4 * STEP]
    await wait_all_tasks_blocked()
    assert mount.at_once(handle, 4 * STEP, STEP) == CONTENT[4 * STEP : 5 * STEP]


async def test_a_waiting_reader_and_a_write(mount: ReadBench) -> None:
    """Who waits for a chunk while it is written over gets the new bytes: the kernel may keep
    them."""
    parts: list[bytes] = []

    async def read() -> None:
        parts.append(await mount.read(handle, 3 * STEP, STEP))

    async with trio.open_nursery() as readers:
        with mount.store.paused():
            handle = await mount.begin_stalled()
            readers.start_soon(read)
            await wait_all_tasks_blocked()
            await mount.fs.write(handle, 3 * STEP, b"new")
    assert parts == [b"new" + CONTENT[3 * STEP + 3 : 4 * STEP]]


async def test_a_waiting_reader_and_another_version(mount: ReadBench) -> None:
    """Who waits for a chunk gets none that is older than what has been heard meanwhile."""
    parts: list[bytes] = []
    handle = await mount.begin()
    await wait_all_tasks_blocked()

    async def read() -> None:
        parts.append(await mount.read(handle, 6 * STEP, 8))

    mount.store.reply = trio.Event()
    await mount.read(handle, 3 * STEP, 2 * STEP)  # begins a fetch of what follows
    async with trio.open_nursery() as readers:
        readers.start_soon(read)
        await wait_all_tasks_blocked()
        mount.store.put_now(key_of(b"f"), OTHER)
        await mount.open(b"f")
        assert await mount.read(handle, 6 * STEP + 8, 8) == OTHER[6 * STEP + 8 : 6 * STEP + 16]
        assert not parts
        mount.store.reply.set()
    assert parts == [OTHER[6 * STEP : 6 * STEP + 8]]


def test_of_which_file_chunks_are() -> None:
    """Versions are compared within one object only: those of two may be equal."""
    file = CachedFile(key_of(b"f"), ObjectStat(size=1, mtime_s=1, version=7))
    ahead = HandleAhead()
    assert not ahead.is_of(file)
    ahead.key, ahead.version = file.key, 7
    assert ahead.is_of(file)
    file.key = key_of(b"g")
    assert not ahead.is_of(file)


async def test_write_to_an_unlinked_file(mount: ReadBench) -> None:
    """It is read from the local copy, not from what was fetched before."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    await mount.unlink(b"f")
    await mount.fs.write(handle, 3 * STEP, b"new")
    assert await mount.read(handle, 3 * STEP, 5) == b"new" + CONTENT[3 * STEP + 3 : 3 * STEP + 5]


async def test_write_beside(mount: ReadBench) -> None:
    """A read sees what was written through another handle, before and after its flush."""
    handle, writer = await mount.begin(), await mount.open(b"f")
    await wait_all_tasks_blocked()
    await mount.fs.write(writer, 3 * STEP + 5, b"new")
    expected = CONTENT[3 * STEP : 3 * STEP + 5] + b"new"
    assert await mount.read(handle, 3 * STEP, 8) == expected
    await mount.fs.sync(writer)
    assert await mount.read(handle, 3 * STEP, 8) == expected
    assert await mount.read(handle, 3 * STEP, STEP) == expected + CONTENT[3 * STEP + 8 : 4 * STEP]


async def test_write_and_flush_while_chunks_are_under_way(mount: ReadBench) -> None:
    """A chunk that was read before a write's flush is not used after it."""
    with mount.store.paused():
        handle = await mount.begin_stalled()
        await mount.fs.write(handle, 3 * STEP, b"new")
    await mount.fs.sync(handle)
    await wait_all_tasks_blocked()
    assert await mount.read(handle, 3 * STEP, 5) == b"new" + CONTENT[3 * STEP + 3 : 3 * STEP + 5]


async def test_truncate_meanwhile(mount: ReadBench) -> None:
    """Bytes that were cut off are not read."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    ino = (await mount.stat(b"f")).ino
    change = AttributeChange(size=3 * STEP + 1)
    await mount.fs.set_attributes(ino, change, handle)
    assert await mount.read(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 3 * STEP + 1]
    await mount.fs.sync(handle)
    assert await mount.read(handle, 3 * STEP, STEP) == CONTENT[3 * STEP : 3 * STEP + 1]


@pytest.mark.parametrize("when", ["before", "under way"])
async def test_unlink_meanwhile(mount: ReadBench, when: str) -> None:
    """An unlinked file is read on, from its local copy."""
    handle = await mount.begin()
    if when == "before":
        await wait_all_tasks_blocked()
    await mount.unlink(b"f")
    mount.store.put_now(key_of(b"f"), OTHER)
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]


@pytest.mark.parametrize("when", ["before", "under way"])
async def test_rename_meanwhile(mount: ReadBench, when: str) -> None:
    """A renamed file is read on under its new name."""
    handle = await mount.begin()
    if when == "before":
        await wait_all_tasks_blocked()
    await mount.rename(b"f", b"g")
    mount.store.put_now(key_of(b"f"), OTHER)
    assert await mount.read_through(handle, 3 * STEP) == CONTENT[3 * STEP :]


async def test_a_waiting_reader_and_a_rename(mount: ReadBench) -> None:
    """Who waits for a chunk while the file is renamed gets its bytes all the same."""
    parts: list[bytes] = []

    async def read() -> None:
        parts.append(await mount.read(handle, 3 * STEP, STEP))

    async with trio.open_nursery() as readers:
        with mount.store.paused():
            handle = await mount.begin_stalled()
            readers.start_soon(read)
            await wait_all_tasks_blocked()
            readers.start_soon(mount.rename, b"f", b"g")
    assert parts == [CONTENT[3 * STEP : 4 * STEP]]
    assert await mount.read_through(handle, 4 * STEP) == CONTENT[4 * STEP :]


async def test_removed_elsewhere(mount: ReadBench) -> None:
    """Behind what was fetched, the object is gone: ESTALE, as without."""
    handle = await mount.begin()
    await wait_all_tasks_blocked()
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(StaleFile):
        await mount.read_through(handle, 3 * STEP)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 12)),
            st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 12)),
            st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 12)),
            st.tuples(st.just("seek"), st.integers(0, 1), st.integers(0, 1000)),
            st.tuples(st.just("change"), st.integers(1, 9), st.integers(500, 1000)),
            st.tuples(st.just("open"), st.integers(0, 1), st.just(0)),
            st.tuples(st.just("fail"), st.integers(0, 3), st.just(0)),
        ),
        max_size=80,
    ),
)
def test_no_read_mixes_versions(seed: int, steps: list[tuple[str, int, int]]) -> None:
    """Another client replaces the content at any time: each read is of one version, no older
    than its open, nor than one that was read before."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            bench = await started(nursery, size_bytes=8 * KIB)
            await play_changes(bench, random.Random(seed), steps)
            nursery.cancel_scope.cancel()

    run_seeded(seed, main)


async def play_changes(
    mount: MountBench, dice: random.Random, steps: list[tuple[str, int, int]]
) -> None:
    async def delay(_: object) -> None:
        await trio.sleep(dice.random() / 10)

    mount.store.delay = delay
    versions = [bytes([0]) * 800]
    mount.store.put_now(key_of(b"f"), versions[0])
    handles = [await mount.open(b"f", os.O_RDONLY) for _ in range(2)]
    offsets, oldest = [0, 0], [0, 0]
    for kind, index, number in steps:
        if kind == "read":
            part = b""
            with contextlib.suppress(Disconnected):
                part = await mount.read(handles[index], offsets[index], number)
            offsets[index] += len(part)
            assert len(set(part)) <= 1
            if part:
                assert part[0] >= oldest[index]
                oldest[index] = part[0]
        elif kind == "seek":
            offsets[index] = number
        elif kind == "change":
            versions.append(bytes([len(versions)]) * number)
            mount.store.put_now(key_of(b"f"), versions[-1])
        elif kind == "open":
            await mount.close(handles[index])
            handles[index] = await mount.open(b"f", os.O_RDONLY)
            offsets[index], oldest[index] = 0, len(versions) - 1
        else:
            mount.store.fail_next(Disconnected("injected"), is_read, skip_count=index)
        assert mount.fs._opens.ahead.held_bytes <= KIB
