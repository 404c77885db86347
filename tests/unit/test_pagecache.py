"""The page cache over a memory store: who waits for what, and what the store gets."""

import pytest
import trio
import trio.testing

from radosmount.cache.orphan import Orphan
from radosmount.config import FlushMode
from radosmount.errors import (
    FileTooBig,
    StaleFile,
)
from radosmount.store.interface import (
    AtVersion,
    Change,
    Existence,
    SetXattr,
    Write,
    WriteFull,
)
from radosmount.store.posix import NS_PER_S
from tests.support.stores import CacheBench, content, key_of, small_store

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")


# --- Reading and writing


async def test_new_file_goes_out_as_one_operation(bench: CacheBench) -> None:
    """A new file reaches the store whole, with its xattrs and mtime, and only where none is."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"hello ")
    await bench.cache.write(file, 6, b"world")
    bench.cache.stage_xattr(file, b"color", b"blue")
    bench.cache.set_mtime(file, 1_600_000_000 * NS_PER_S)
    await bench.cache.flush(file)
    steps = (WriteFull(b"hello world"), SetXattr(b"color", b"blue"))
    assert bench.store.changes == [
        (file.key, Change(steps, Existence.ABSENT, mtime_s=1_600_000_000))
    ]
    assert file.is_clean
    assert bench.cache.held_bytes == 0
    assert file.base == bench.stat()


async def test_only_written_bytes_are_sent(bench: CacheBench) -> None:
    """A flush sends the bytes that were written, never their neighbours."""
    file = bench.stored_file(b"0123456789")
    version = file.base.version
    await bench.cache.write(file, 2, b"ab")
    await bench.cache.write(file, 7, b"c")
    assert await content(bench, file) == b"01ab456c89"
    await bench.cache.flush(file)
    [(_, change)] = bench.store.changes
    assert change.steps == (Write(2, b"ab"), Write(7, b"c"))
    assert change.guard == AtVersion(version)
    assert bench.stored() == b"01ab456c89"


async def test_read_beyond_end(bench: CacheBench) -> None:
    """A read at or behind the end gives nothing, one across it gives what there is."""
    file = bench.stored_file(b"abc")
    assert bytes(await bench.cache.read(file, 3, 5)) == b""
    assert bytes(await bench.cache.read(file, 9, 5)) == b""
    assert bytes(await bench.cache.read(file, 1, 5)) == b"bc"


async def test_hole_reads_as_zeros(bench: CacheBench) -> None:
    """What lies between the old end and a later write is zeros, before and after the flush."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 6, b"x")
    assert await content(bench, file) == b"abc\0\0\0x"
    await bench.cache.flush(file)
    assert bench.stored() == b"abc\0\0\0x"


async def test_cut_and_grown_reads_as_zeros(bench: CacheBench) -> None:
    """Bytes that were cut off do not come back when the file grows again."""
    file = bench.stored_file(b"abcdef")
    bench.cache.truncate(file, 2)
    bench.cache.truncate(file, 5)
    assert await content(bench, file) == b"ab\0\0\0"
    await bench.cache.flush(file)
    assert bench.stored() == b"ab\0\0\0"


async def test_truncate_to_same_size(bench: CacheBench) -> None:
    """Truncating to the size that a file has changes its mtime only."""
    file = bench.stored_file(b"abc")
    bench.cache.truncate(file, 3)
    await bench.cache.flush(file)
    assert file.error is None
    assert file.is_clean
    assert bench.stored() == b"abc"
    assert bench.stat().mtime_s > 1_000_000_000


async def test_mtime_set_during_flush(bench: CacheBench) -> None:
    """An mtime that is set while the bytes are on their way is stored after them."""
    file = bench.stored_file(b"abc")
    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            await bench.cache.write(file, 0, b"x")
            nursery.start_soon(bench.cache.flush, file)
            await trio.testing.wait_all_tasks_blocked()
            bench.cache.set_mtime(file, 1_234_567_890 * NS_PER_S)
    await bench.cache.flush(file)
    assert file.error is None
    assert bench.stat().mtime_s == 1_234_567_890
    assert bench.stored() == b"xbc"


async def test_write_during_flush_is_not_lost(bench: CacheBench, nursery: trio.Nursery) -> None:
    """Bytes written while others are being stored need no wait, and go out with the next flush."""
    file = bench.new_file()
    await bench.cache.write(file, 0, b"old")
    with bench.store.paused():
        nursery.start_soon(bench.cache.flush, file)
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(1):
            await bench.cache.write(file, 1, b"new")
        assert await content(bench, file) == b"onew"
    await bench.cache.flush(file)
    assert bench.stored() == b"onew"
    assert bench.cache.held_bytes == 0


async def test_reader_during_flush_and_truncate(bench: CacheBench, nursery: trio.Nursery) -> None:
    """A file that is rewritten while its old bytes are on their way reads as the new ones."""
    file = bench.stored_file(b"0123456789")
    await bench.cache.write(file, 0, b"ABCDEF")
    with bench.store.paused():
        nursery.start_soon(bench.cache.flush, file)
        await trio.testing.wait_all_tasks_blocked()
        bench.cache.truncate(file, 0)
        await bench.cache.write(file, 2, b"z")
        assert await content(bench, file) == b"\0\0z"
    assert await content(bench, file) == b"\0\0z"
    await bench.cache.flush(file)
    assert bench.stored() == b"\0\0z"


async def test_read_of_bytes_in_flight(bench: CacheBench, nursery: trio.Nursery) -> None:
    """Bytes that are on their way to a store that does not answer are read without it."""
    file = bench.stored_file(b"begin, end")
    await bench.cache.write(file, 0, b"BEGIN")
    with bench.store.paused():
        nursery.start_soon(bench.cache.flush, file)
        await trio.testing.wait_all_tasks_blocked()
        await bench.cache.write(file, 5, b";")
        with trio.fail_after(1):
            assert await bench.cache.read(file, 0, 6) == b"BEGIN;"
    await bench.cache.flush(file)
    assert bench.stored() == b"BEGIN; end"


async def test_read_under_way_when_flush_ends(bench: CacheBench) -> None:
    """A read that began before a write's flush never mixes in bytes older than the write."""
    file = bench.stored_file(b"0123456789")
    await bench.cache.write(file, 4, b"ab")
    results: list[bytes] = []

    async def read() -> None:
        results.append(await content(bench, file))

    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            nursery.start_soon(bench.cache.flush, file)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
    assert results == [b"0123ab6789"]


async def test_read_of_removed_object(bench: CacheBench) -> None:
    """A read of an object that someone removed is ESTALE, not zeros."""
    file = bench.stored_file(b"abc")
    bench.store.remove_now(file.key)
    with pytest.raises(StaleFile):
        await bench.cache.read(file, 0, 3)


async def test_read_follows_a_rename(bench: CacheBench) -> None:
    """A read whose object was renamed meanwhile finds it under the new name."""
    file = bench.stored_file(b"abc")
    results: list[bytes] = []

    async def read() -> None:
        results.append(await content(bench, file))

    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            bench.store.put_now(key_of(b"g"), b"abc")
            bench.store.put_now(key_of(b"f"), b"another's")
            file.key = key_of(b"g")
    assert results == [b"abc"]


async def test_read_of_file_unlinked_meanwhile(bench: CacheBench) -> None:
    """A read that arrives after the file was unlinked and its name taken reads its own bytes."""
    file = bench.stored_file(b"abc")
    results: list[bytes] = []

    async def read() -> None:
        results.append(await content(bench, file))

    async with trio.open_nursery() as nursery:
        with bench.store.paused():
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            bench.store.put_now(key_of(b"f"), b"another's")
            file.orphan = Orphan()
            file.orphan.write(0, b"abc")
            bench.cache.move_to_orphan(file)
    assert results == [b"abc"]
    file.orphan.close()


async def test_clean_read_sees_that_the_object_changed(bench: CacheBench) -> None:
    """A read that meets another version than was known makes the file suspect."""
    file = bench.stored_file(b"abc")
    bench.store.put_now(file.key, b"xyz")
    assert await content(bench, file) == b"xyz"
    assert file.is_suspect


async def test_too_big(nursery: trio.Nursery) -> None:
    """The write that crosses one object's limit is refused, and nothing before it is lost."""
    bench = CacheBench(nursery, small_store())
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    with pytest.raises(FileTooBig):
        await bench.cache.write(file, 998, b"xyz")
    with pytest.raises(FileTooBig):
        bench.cache.truncate(file, 1001)
    bench.cache.truncate(file, 1000)
    await bench.cache.flush(file)
    assert bench.stored() == b"abc".ljust(1000, b"\0")
    assert bench.cache.held_bytes == 0


async def test_write_to_removed_file(bench: CacheBench) -> None:
    """A file that was unlinked and kept by nobody takes no more bytes."""
    file = bench.new_file()
    bench.cache.discard(file)
    file.is_unlinked = True
    with pytest.raises(StaleFile):
        await bench.cache.write(file, 0, b"x")
    with pytest.raises(StaleFile):
        bench.cache.truncate(file, 0)
    assert bench.cache.held_bytes == 0


async def test_sync_mode(nursery: trio.Nursery) -> None:
    """With flush=sync a write returns when the store has it."""
    bench = CacheBench(nursery, flush=FlushMode.SYNC)
    file = bench.new_file()
    await bench.cache.write(file, 0, b"abc")
    assert bench.stored() == b"abc"
    await bench.cache.write(file, 1, b"x")
    assert bench.stored() == b"axc"
