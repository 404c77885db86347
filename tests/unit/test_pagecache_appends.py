"""The page cache over a memory store: appending."""

import pytest
import trio
import trio.testing

from radosmount.errors import (
    QuotaExceeded,
    TimedOut,
    VersionConflict,
)
from tests.support.stores import (
    CacheBench,
    StoppedOsd,
    content,
    is_apply,
    is_call,
)

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")


async def test_append_goes_to_the_end(bench: CacheBench) -> None:
    """An append is put at the end, whatever offset the kernel thinks of."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"d", is_append=True)
    await bench.cache.write(file, 1, b"e", is_append=True)
    await bench.cache.flush(file)
    assert bench.stored() == b"abcde"


async def test_append_behind_a_foreign_append(bench: CacheBench) -> None:
    """An append goes behind what someone else appended meanwhile."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.put_now(file.key, b"abc+theirs")
    await bench.cache.flush(file)
    assert bench.stored() == b"abc+theirsours"
    assert await content(bench, file) == b"abc+theirsours"
    assert file.error is None


async def test_append_lost_reply_then_foreign_append(bench: CacheBench) -> None:
    """An append whose reply was lost is not doubled when someone appends behind it."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    await bench.cache.flush(file)
    await bench.cache.write(file, 0, b"+more", is_append=True)
    bench.store.put_now(file.key, b"abcours+theirs")
    await bench.cache.flush(file)
    assert bench.stored() == b"abcours+theirs+more"
    assert file.error_count == 1
    assert await content(bench, file) == b"abcours+theirs+more"


async def test_append_lost_request_then_foreign_append(bench: CacheBench) -> None:
    """An append that was lost on its way is put behind what someone else appended."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.fail_next(TimedOut("lost"), is_apply)
    await bench.cache.flush(file)
    bench.store.put_now(file.key, b"abc+theirs")
    await bench.cache.flush(file)
    assert bench.stored() == b"abc+theirsours"


@pytest.mark.parametrize("lost_count", [0, 1, 16, 18, 19])
@pytest.mark.parametrize("theirs", [b"", b"theirs;"])
async def test_append_after_many_lost_replies(
    bench: CacheBench, lost_count: int, theirs: bytes
) -> None:
    """A log that is written on while its OSD is stopped has each line once, whichever flush the
    OSD applies when it wakes."""
    file = bench.stored_file(b"start;")
    osd = StoppedOsd(bench.store)
    for index in range(20):
        await bench.cache.write(file, 0, b"%d;" % index, is_append=True)
        await bench.cache.flush(file)
    await osd.wake(lost_count)
    bench.store.put_now(file.key, (bench.stored() or b"") + theirs)
    await bench.cache.flush(file)
    lines = [b"%d;" % index for index in range(20)]
    stored = bench.stored() or b""
    ours = stored.removeprefix(b"start;").replace(theirs, b"")
    assert ours == b"".join(lines)
    assert len(stored) == len(b"start;" + theirs + ours)
    assert isinstance(file.error, TimedOut)


async def test_half_stored_append_is_not_doubled(many: CacheBench) -> None:
    """An append that was stored half way is not put behind a foreign one a second time."""
    file = many.stored_file(b"0123")
    await many.cache.write(file, 0, b"aaaabbbb", is_append=True)
    many.store.fail_next(QuotaExceeded("full"), is_apply, skip_count=1)
    await many.cache.flush(file)
    assert many.stored() == b"0123aaaa"
    many.store.put_now(file.key, b"0123aaaa+")
    await many.cache.flush(file)
    assert isinstance(file.error, VersionConflict)
    assert many.stored() == b"0123aaaa+"


async def test_write_while_append_is_refused(bench: CacheBench) -> None:
    """A plain write while an append asks for its new place makes it a conflict, not a crash."""
    file = bench.stored_file(b"abc")
    await bench.cache.write(file, 0, b"ours", is_append=True)
    bench.store.put_now(file.key, b"abc+theirs")
    written = trio.Event()

    async def write_meanwhile(call: object) -> None:
        if is_call("stat")(call) and not written.is_set():  # type: ignore[arg-type]
            written.set()
            await bench.cache.write(file, 0, b"X")

    bench.store.delay = write_meanwhile
    await bench.cache.flush(file)
    assert written.is_set()
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() == b"abc+theirs"
    assert await content(bench, file) == b"Xbc+thers"[:3] + b"ours"
