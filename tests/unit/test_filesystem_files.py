"""Consistency, errors and attributes of files, over a memory store."""

import os
import stat
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from radosmount.config import ConflictMode, FlushMode, ViewConfig
from radosmount.errors import (
    DeadlineExceeded,
    FileTooBig,
    NoSpace,
    NotPermitted,
    StaleFile,
    VersionConflict,
)
from radosmount.store.interface import (
    Create,
    WriteFull,
)
from radosmount.store.posix import NS_PER_S
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench, started
from tests.support.stores import is_apply, key_of

FAILS = pytest.mark.expects_log("is not stored|could not be stored")


# --- Consistency


async def test_close_to_open(mount: MountBench) -> None:
    """An open sees the size and content that others stored before it."""
    await mount.put(b"f", b"old")
    attributes = await mount.stat(b"f")
    mount.store.put_now(key_of(b"f"), b"newer")
    opened = await mount.fs.open(attributes.ino, os.O_RDONLY)
    assert not opened.keeps_pages
    assert (await mount.fs.get_attributes(attributes.ino)).size == 5
    assert await mount.read(opened.handle) == b"newer"


async def test_own_writes_keep_the_kernels_pages(mount: MountBench) -> None:
    """The kernel keeps its pages over an open when only we have changed the object."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    await mount.fs.set_attributes(ino, AttributeChange(mtime_ns=NS_PER_S))
    assert (await mount.fs.open(ino, os.O_RDONLY)).keeps_pages


async def test_foreign_change_of_open_file_is_seen(mount: MountBench) -> None:
    """A read that finds another version has the kernel drop its pages."""
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f", os.O_RDONLY)
    ino = (await mount.stat(b"f")).ino
    mount.store.put_now(key_of(b"f"), b"xyz")
    assert await mount.read(handle, 1) == b"yz"
    assert mount.invalidated == [ino]


async def test_foreign_change_that_looks_the_same(mount: MountBench) -> None:
    """Of the same size and second: the kernel, which has pages of it, is told to drop them."""
    mount.store.put_now(key_of(b"f"), b"abc")
    handle = await mount.open(b"f", os.O_RDONLY)
    mount.store.put_now(key_of(b"f"), b"xyz")
    ino = (await mount.stat(b"f")).ino
    assert mount.invalidated == [ino]
    await mount.close(handle)


@FAILS
async def test_no_silent_overwrite(mount: MountBench) -> None:
    """A close onto an object that someone else changed is ESTALE and overwrites nothing."""
    await mount.put(b"f", b"abc")
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"x")
    mount.store.put_now(key_of(b"f"), b"theirs")
    with pytest.raises(VersionConflict):
        await mount.close(handle)
    assert mount.stored(b"f") == b"theirs"
    assert await mount.get(b"f") == b"theirs"
    assert mount.fs.dirty_bytes() == 0


async def test_attributes_of_removed_object(mount: MountBench) -> None:
    """stat of an object that someone removed is ESTALE, fstat of an open one goes on."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    mount.store.remove_now(key_of(b"f"))
    with pytest.raises(StaleFile):
        await mount.fs.get_attributes(ino)
    mount.store.put_now(key_of(b"f"), b"abc")
    handle = await mount.open(b"f")
    mount.store.remove_now(key_of(b"f"))
    assert (await mount.fs.get_attributes(ino)).size == 3
    await mount.close(handle)


async def test_truncating_open_is_atomic(mount: MountBench) -> None:
    """A rewritten file has its old content in the store until close, then the new."""
    await mount.put(b"f", b"old content")
    mount.store.changes.clear()
    handle = await mount.open(b"f", os.O_WRONLY | os.O_TRUNC)
    assert (await mount.stat(b"f")).size == 0
    await mount.fs.write(handle, 0, b"new")
    assert mount.stored(b"f") == b"old content"
    await mount.close(handle)
    [(_, change)] = mount.store.changes
    assert change.steps == (WriteFull(b"new"),)


async def test_append_handle(mount: MountBench) -> None:
    """A handle with O_APPEND writes at the end, after what others have appended."""
    await mount.put(b"log", b"one\n")
    handle = await mount.open(b"log", os.O_WRONLY | os.O_APPEND)
    await mount.fs.write(handle, 0, b"three\n")
    mount.store.put_now(key_of(b"log"), b"one\ntwo\n")
    await mount.close(handle)
    assert mount.stored(b"log") == b"one\ntwo\nthree\n"


# --- Errors, once a handle


@FAILS
async def test_each_open_handle_hears_once(mount: MountBench) -> None:
    """Each handle that was open at a failed flush hears of it once, a later one does not."""
    await mount.put(b"f", b"abc")
    one, two = await mount.open(b"f"), await mount.open(b"f")
    await mount.fs.write(one, 0, b"x")
    mount.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await mount.fs.sync(one)
    late = await mount.open(b"f")
    await mount.fs.sync(one)
    await mount.fs.sync(late)
    with pytest.raises(NoSpace):
        await mount.fs.flush(two)
    for handle in (one, two, late):
        await mount.close(handle)
    assert mount.stored(b"f") == b"xbc"


@FAILS
async def test_lazy_failure_of_stored_file_is_heard(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """With flush=lazy a write-back that failed for good after close is heard at the next one."""
    mount = await started(nursery, flush=FlushMode.LAZY)
    mount.store.put_now(key_of(b"f"), b"abc")
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"x")
    await mount.close(handle)
    mount.store.put_now(key_of(b"f"), b"theirs")
    await trio.sleep(10)
    handle = await mount.open(b"f")
    with pytest.raises(VersionConflict):
        await mount.close(handle)
    await mount.close(await mount.open(b"f"))


@FAILS
async def test_next_opener_is_not_told_what_close_has_told(mount: MountBench) -> None:
    """A failure that close reported is not reported to the next opener again."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.store.is_full = True
    with pytest.raises(NoSpace):
        await mount.close(handle)
    mount.store.is_full = False
    handle = await mount.open(b"f")
    await mount.close(handle)
    assert mount.stored(b"f") == b"abc"


@FAILS
async def test_sync_mode_write_fails(nursery: trio.Nursery) -> None:
    """With flush=sync the write itself raises what its flush met."""
    mount = await started(nursery, flush=FlushMode.SYNC)
    handle, _ = await mount.create(b"f")
    mount.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await mount.fs.write(handle, 0, b"abc")
    await mount.close(handle)
    assert mount.stored(b"f") == b"abc"


async def test_lazy_close_does_not_wait(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """With flush=lazy close returns at once, and the bytes are stored a little later."""
    mount = await started(nursery, flush=FlushMode.LAZY)
    await mount.put(b"f", b"abc")
    assert mount.stored(b"f") is None
    assert await mount.get(b"f") == b"abc"
    assert await mount.names() == [b"f"]
    await trio.sleep(10)
    assert mount.stored(b"f") == b"abc"
    assert mount.fs.unwritten() == []


async def test_unanswered_close_ends(
    mount: MountBench, autojump_clock: trio.testing.MockClock
) -> None:
    """close(2) ends with an error once nothing was acknowledged for the timeout."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    with mount.store.paused():
        with pytest.raises(DeadlineExceeded):
            await mount.fs.flush(handle)
        assert trio.current_time() == pytest.approx(30, abs=2)


@FAILS
async def test_flush_all(mount: MountBench) -> None:
    """At the end everything is stored, and the first failure is raised with the rest stored."""
    handles = [(await mount.create(name))[0] for name in (b"a", b"b", b"c")]
    for handle in handles:
        await mount.fs.write(handle, 0, b"abc")
    assert mount.fs.dirty_bytes() == 9
    assert sorted(mount.fs.unwritten()) == ["a", "b", "c"]
    mount.store.fail_next(NoSpace("full"), is_apply)
    with pytest.raises(NoSpace):
        await mount.fs.flush_all()
    assert len(mount.fs.unwritten()) == 1
    await mount.fs.flush_all()
    assert mount.fs.unwritten() == []
    assert mount.fs.dirty_bytes() == 0


async def test_sync_directory(mount: MountBench) -> None:
    """fsync of a directory stores the files in it."""
    handle, _ = await mount.create(b"a")
    await mount.fs.write(handle, 0, b"abc")
    directory = mount.fs.open_directory(ROOT_INO)
    await mount.fs.sync_directory(directory)
    assert mount.stored(b"a") == b"abc"


# --- Attributes


async def test_truncate_by_name_is_stored_on_return(mount: MountBench) -> None:
    """truncate(2) returns when the store has the new size."""
    await mount.put(b"f", b"abcdef")
    await mount.truncate(b"f", 2)
    assert mount.stored(b"f") == b"ab"
    await mount.truncate(b"f", 4)
    assert mount.stored(b"f") == b"ab\0\0"
    await mount.truncate(b"f", 4)
    assert mount.stored(b"f") == b"ab\0\0"


async def test_truncate_by_handle_waits_for_close(mount: MountBench) -> None:
    """ftruncate(2) is stored by the close, in one operation with the writes."""
    await mount.put(b"f", b"abcdef")
    mount.store.changes.clear()
    handle = await mount.open(b"f")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_attributes(ino, AttributeChange(size=2), handle)
    await mount.fs.write(handle, 3, b"x")
    assert mount.stored(b"f") == b"abcdef"
    await mount.close(handle)
    assert mount.stored(b"f") == b"ab\0x"
    assert len(mount.store.changes) == 1


async def test_too_big_truncate(mount: MountBench) -> None:
    """A size beyond one object's limit is EFBIG, at once."""
    await mount.put(b"f", b"abc")
    with pytest.raises(FileTooBig):
        await mount.truncate(b"f", (128 << 20) + 1)
    assert await mount.get(b"f") == b"abc"


async def test_mtime(mount: MountBench) -> None:
    """An mtime is stored at once for a stored file, with the flush for one that is written."""
    await mount.put(b"f", b"abc")
    ino = (await mount.stat(b"f")).ino
    change = AttributeChange(mtime_ns=1_400_000_000 * NS_PER_S)
    await mount.fs.set_attributes(ino, change)
    found = mount.store.stat_now(key_of(b"f"))
    assert found is not None
    assert found.mtime_s == 1_400_000_000
    handle = await mount.open(b"f")
    await mount.fs.write(handle, 0, b"x")
    change = AttributeChange(mtime_ns=1_300_000_000 * NS_PER_S)
    attributes = await mount.fs.set_attributes(ino, change, handle)
    assert attributes.mtime_ns == 1_300_000_000 * NS_PER_S
    await mount.close(handle)
    assert (await mount.stat(b"f")).mtime_ns == 1_300_000_000 * NS_PER_S
    found = mount.store.stat_now(key_of(b"f"))
    assert found is not None
    assert found.mtime_s == 1_300_000_000


async def test_mtime_survives_setfattr(mount: MountBench) -> None:
    """Setting an xattr leaves the mtime."""
    mount.store.put_now(key_of(b"f"), b"abc", mtime_s=1_234_567_890)
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_xattr(ino, b"user.color", b"blue")
    assert (await mount.stat(b"f")).mtime_ns == 1_234_567_890 * NS_PER_S


@pytest.mark.expects_log("chmod and chown have no effect")
async def test_modes_are_the_mounts(mount: MountBench) -> None:
    """chmod and chown succeed without effect."""
    await mount.put(b"f", b"")
    ino = (await mount.stat(b"f")).ino
    found = await mount.fs.set_attributes(ino, AttributeChange(mode=0o600))
    assert stat.S_IMODE(found.mode) == 0o644
    await mount.fs.set_attributes(ino, AttributeChange(uid=1000))


async def test_strict_modes(nursery: trio.Nursery) -> None:
    """With strict_modes chmod to another mode is EPERM, to the same it is not."""
    mount = await started(nursery, view=ViewConfig(pool=b"assets", has_strict_modes=True))
    await mount.put(b"f", b"")
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_attributes(ino, AttributeChange(mode=0o644))
    with pytest.raises(NotPermitted):
        await mount.fs.set_attributes(ino, AttributeChange(mode=0o600))


# --- What a comparison with a local disk has found


async def test_an_empty_file_over_an_empty_one(mount: MountBench) -> None:
    """The new mtime is stored by a step that makes the object: of an empty WriteFull onto an empty
    object the OSD makes nothing, and so keeps the mtime."""
    mount.store.put_now(key_of(b"f"), b"")
    handle = await mount.open(b"f", os.O_WRONLY | os.O_TRUNC)
    ino = (await mount.stat(b"f")).ino
    await mount.fs.set_attributes(ino, AttributeChange(mtime_ns=5 * NS_PER_S), handle)
    await mount.close(handle)
    [(_, change)] = mount.store.changes
    assert change.steps == (Create(), WriteFull(b""))
    assert (await mount.stat(b"f")).mtime_ns == 5 * NS_PER_S


async def test_made_by_an_open_for_reading(mount: MountBench) -> None:
    """As flock(1) does: the object is there when it is closed."""
    handle, ino = await mount.create(b"f", os.O_RDONLY)
    assert (await mount.fs.open(ino, os.O_RDONLY)).has_flush
    await mount.close(handle)
    assert mount.stored(b"f") == b""
    assert not (await mount.fs.open(ino, os.O_RDONLY)).has_flush
    assert (await mount.fs.open(ino, os.O_RDWR)).has_flush


async def test_the_time_of_a_file_that_was_never_stored(mount: MountBench) -> None:
    """Unlinked while it is open it is as old as it is, and a write makes it new."""
    handle, ino = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"content")
    made_ns = (await mount.fs.get_attributes(ino)).mtime_ns
    await mount.unlink(b"f")
    assert (await mount.fs.get_attributes(ino)).mtime_ns == made_ns > 10**18
    old = AttributeChange(mtime_ns=5 * NS_PER_S)
    await mount.fs.set_attributes(ino, old, handle)
    await mount.fs.write(handle, 0, b"new")
    assert (await mount.fs.get_attributes(ino)).mtime_ns >= made_ns
    await mount.close(handle)


async def test_an_append_overwrites_nobody(nursery: trio.Nursery) -> None:
    """With `conflict=last-writer`, too: it goes behind what others have appended."""
    mount = MountBench(nursery, conflict=ConflictMode.LAST_WRITER)
    await mount.fs.start()
    mount.store.put_now(key_of(b"f"), b"first ")
    handle = await mount.open(b"f", os.O_WRONLY | os.O_APPEND)
    await mount.fs.write(handle, 0, b"ours")
    mount.store.put_now(key_of(b"f"), b"first theirs ")
    await mount.close(handle)
    assert mount.stored(b"f") == b"first theirs ours"


@FAILS
async def test_all_who_wait_hear_of_a_failure(mount: MountBench, nursery: trio.Nursery) -> None:
    """fsync does not return 0 because a close of the same descriptor, in a forked child, was told
    of the error of the flush that both waited for."""
    handle, _ = await mount.create(b"f")
    await mount.fs.write(handle, 0, b"abc")
    mount.store.fail_next(NoSpace("full"), is_apply)
    heard: list[str] = []

    async def call(name: str, wait: Callable[[int], Awaitable[None]]) -> None:
        with pytest.raises(NoSpace):
            await wait(handle)
        heard.append(name)

    with mount.store.paused():
        nursery.start_soon(call, "close", mount.fs.flush)
        nursery.start_soon(call, "fsync", mount.fs.sync)
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked()
    assert sorted(heard) == ["close", "fsync"]
    await mount.close(handle)
    assert mount.stored(b"f") == b"abc"
