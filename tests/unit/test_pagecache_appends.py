"""The page cache over a memory store: appending."""

import pytest
import trio
import trio.testing

from radosmount.cache.flush import APPEND_ATTEMPT_COUNT_MAX
from radosmount.errors import (
    QuotaExceeded,
    TimedOut,
    VersionConflict,
)
from radosmount.store.interface import Change, Limits, Write
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
    """An append of more than an operation may hold, stored half way, is not put behind a foreign
    one a second time."""
    many.store.limits = Limits(object_bytes_max=1000, operation_bytes_max=4)
    file = many.stored_file(b"0123")
    await many.cache.write(file, 0, b"aaaabbbb", is_append=True)
    many.store.fail_next(QuotaExceeded("full"), is_apply, skip_count=1)
    await many.cache.flush(file)
    assert many.stored() == b"0123aaaa"
    many.store.change_now(file.key, Change((Write(8, b"+"),)))
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


async def test_long_append_beside_a_foreign_one(
    bench: CacheBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others append while a long append is stored stays, between two of its writes."""
    monkeypatch.setattr("radosmount.cache.file.APPEND_BYTES_MAX", 4)
    monkeypatch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 4)
    file = bench.stored_file(b"start;")
    for record in (b"aaa;", b"b;", b"c;", b"dddddd;", b"e;"):
        await bench.cache.write(file, 0, record, is_append=True)
    apply_count = 0

    async def append_theirs(call: object) -> None:
        nonlocal apply_count
        apply_count += is_apply(call)  # type: ignore[arg-type]
        if apply_count == 3:
            bench.store.delay = None
            stored = bench.stored() or b""
            assert stored == b"start;aaa;b;c;"  # no write is cut
            bench.store.put_now(file.key, stored + b"theirs;")

    bench.store.delay = append_theirs
    await bench.cache.flush(file)
    assert file.error is None
    assert file.is_clean
    assert bench.stored() == b"start;aaa;b;c;theirs;dddddd;e;"
    assert await content(bench, file) == bench.stored()


async def test_append_that_is_outrun(bench: CacheBench) -> None:
    """Where others append before each try, it gives up after a while, and theirs is all there."""
    file = bench.stored_file(b"start;")
    await bench.cache.write(file, 0, b"ours;", is_append=True)
    theirs = 0

    async def append_theirs(call: object) -> None:
        nonlocal theirs
        if is_apply(call):  # type: ignore[arg-type]
            theirs += 1
            bench.store.put_now(file.key, (bench.stored() or b"") + b"theirs;")

    bench.store.delay = append_theirs
    await bench.cache.flush(file)
    assert theirs == APPEND_ATTEMPT_COUNT_MAX
    assert isinstance(file.error, VersionConflict)
    assert bench.stored() == b"start;" + b"theirs;" * theirs


async def test_flush_of_an_append_that_goes_on(
    bench: CacheBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flush waits for what was appended before it, not for what is meanwhile."""
    monkeypatch.setattr("radosmount.cache.file.APPEND_BYTES_MAX", 4)
    file = bench.stored_file(b"start;")
    for _ in range(3):
        await bench.cache.write(file, 0, b"old;", is_append=True)
    apply_count = 0

    async def append_more(call: object) -> None:
        nonlocal apply_count
        if is_apply(call):  # type: ignore[arg-type]
            apply_count += 1
            await bench.cache.write(file, 0, b"new;", is_append=True)

    bench.store.delay = append_more
    await bench.cache.flush(file)
    assert apply_count == 3
    bench.store.delay = None
    await bench.cache.flush(file)
    assert bench.stored() == b"start;" + b"old;" * 3 + b"new;" * 3


async def test_long_append_that_fails(bench: CacheBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append that was stored half way goes on where it stopped, behind what others appended."""
    monkeypatch.setattr("radosmount.cache.file.APPEND_BYTES_MAX", 4)
    file = bench.stored_file(b"0123")
    for record in (b"aaaa", b"bbbb", b"cccc"):
        await bench.cache.write(file, 0, record, is_append=True)
    bench.store.fail_next(QuotaExceeded("full"), is_apply, skip_count=1)
    await bench.cache.flush(file)
    assert isinstance(file.error, QuotaExceeded)
    assert bench.stored() == b"0123aaaa"
    bench.store.put_now(file.key, b"0123aaaa+")
    await bench.cache.flush(file)
    assert bench.stored() == b"0123aaaa+bbbbcccc"
