"""Who is not answered leaves room to the others."""

import itertools

import pytest
import trio
import trio.testing

from radosmount.cache.file import CachedFile
from radosmount.cache.stalls import Stalls
from radosmount.config import MIB
from radosmount.errors import DeadlineExceeded, QuotaExceeded, TimedOut
from radosmount.store.interface import ObjectStat
from radosmount.store.memory import Call
from tests.support.stores import CacheBench, key_of


def a_file() -> CachedFile:
    return CachedFile(key_of(b"f"), ObjectStat(0, 1, 1))


def test_a_file_without_answers_is_stalled() -> None:
    """A file is stalled once what it asks for has no answer for a second; another one's answers
    are no news of it, its own are."""
    stalls, dead, other = Stalls(), a_file(), a_file()
    stalls.asked(dead, 0.0)
    stalls.asked(other, 0.0)
    stalls.answered(other, 1.0, is_well=True)
    assert not stalls.look(0.5)
    assert stalls.look(1.5)
    assert not stalls.look(1.6)
    assert stalls.has(dead)
    assert not stalls.has(other)
    stalls.asked(dead, 1.7)
    stalls.answered(dead, 2.0, is_well=True)
    assert stalls.look(2.1)
    assert not stalls.are_there
    assert stalls.look(3.1)
    assert stalls.has(dead)


def test_failures_are_no_answers() -> None:
    """What times out, or is refused, has stored nothing; between two tries it is as stalled."""
    stalls, dead = Stalls(), a_file()
    stalls.asked(dead, 0.0)
    stalls.asked(dead, 0.9)
    stalls.answered(dead, 0.9, is_well=False)
    assert stalls.look(1.1)
    stalls.answered(dead, 1.2, is_well=False)
    stalls.failed(dead, 1.2)
    assert stalls.look(1.3)
    assert stalls.has(dead)
    stalls.forget(dead)
    assert not stalls.are_there


def test_an_answer_before_the_stall_says_nothing() -> None:
    """The OSD may be the same one. What was heard at a look-up counts, too."""
    stalls, dead, file, looked_up = Stalls(), a_file(), a_file(), a_file()
    stalls.asked(file, 0.0)
    stalls.answered(file, 1.0, is_well=True)
    stalls.asked(dead, 2.0)
    looked_up.heard_s = 3.0
    stalls.look(3.5)
    assert [stalls.is_heard(one) for one in (file, looked_up, a_file())] == [False, True, False]
    stalls.asked(file, 4.0)
    stalls.answered(file, 4.1, is_well=True)
    assert stalls.is_heard(file)
    stalls.failed(dead, 5.0)  # a failure is news, too
    assert [stalls.is_heard(one) for one in (file, looked_up)] == [False, False]
    stalls.forget(dead)
    stalls.look(5.1)
    assert stalls.is_heard(file)


def test_a_full_pool_is_stalled_as_a_whole() -> None:
    """Until each file that found it full is stored, or gone. Its OSDs live: nobody else has to
    ask theirs for that."""
    stalls, first, second, other = Stalls(), a_file(), a_file(), a_file()
    elsewhere = CachedFile(key_of(b"f", 2), None)
    other.base = ObjectStat(10, 1, 1)
    elsewhere.heard_s = 0.5
    for number, file in enumerate((first, second)):
        file.error = QuotaExceeded("full")
        stalls.failed(file, 1.0 + number)
    stalls.look(3.0)
    assert stalls.are_there
    assert [stalls.has(file) for file in (first, other, elsewhere)] == [True, True, False]
    refusal = stalls.refusal_of(other, end=11)
    assert isinstance(refusal, QuotaExceeded)
    assert str(refusal) == "b'f': its pool is full"
    assert stalls.refusal_of(other, end=10) is None  # what does not grow
    assert stalls.is_heard(elsewhere)
    stalls.forget(first)
    assert stalls.has(other)
    second.error = TimedOut("no answer")
    stalls.failed(second, 4.0)
    assert not stalls.has(other)
    assert not stalls.is_heard(elsewhere)


async def write_on(bench: CacheBench, file: CachedFile, byte_count: int) -> None:
    for offset in range(0, byte_count, MIB):
        await bench.cache.write(file, offset, bytes(MIB))


@pytest.mark.expects_log("is not stored")
async def test_others_go_on_beside_a_dead_osd(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """While files of one OSD fill the cache, those of others are written and stored as before;
    and who waits for room for more of the former hears of it after the time-out."""
    bench = CacheBench(nursery, size_bytes=32 * MIB, atomic_max_bytes=MIB)
    nursery.start_soon(bench.cache.run)
    failures: list[float] = []

    async def delay(call: Call) -> None:
        if call.key is not None and call.key.name.startswith(b"dead"):
            await trio.sleep(bench.config.timeout_s)
            raise TimedOut("no answer")

    async def fill(name: bytes) -> None:
        with pytest.raises((DeadlineExceeded, TimedOut)):
            await write_on(bench, bench.new_file(name), 100 * MIB)
        failures.append(trio.current_time())

    bench.store.delay = delay
    began_s = trio.current_time()
    for number in range(3):
        nursery.start_soon(fill, b"dead-%d" % number)
    await trio.sleep(3)
    for number in itertools.count():
        if trio.current_time() - began_s > 25:
            break
        file = bench.new_file(b"other-%d" % number)
        with trio.fail_after(1):
            await write_on(bench, file, 8 * MIB)
            await bench.cache.flush(file)
        assert bench.stored(file.key.name) == bytes(8 * MIB)
        await trio.sleep(0.5)
    assert number > 20
    await trio.sleep(3 * bench.config.timeout_s)
    assert len(failures) == 3
    assert max(failures) - began_s <= 2 * bench.config.timeout_s
    bench.store.delay = None
