"""Two mounts of one place, and four processes on each, on the same objects.

A stamped block tells who wrote it, and the how-manieth of that writer's it is; its digest tells
whether it is whole. The processes are this module, run as a program: see `main`.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import rados

from radosmount.cache import spoolfile
from tests.battery.behind import other_client
from tests.battery.row import Arena, Row, RowFailed
from tests.mount.mounting import Mount
from tests.support.cluster import SHARED_POOL

MOUNT_COUNT: Final = 2
PROCESS_COUNT: Final = 4  # on each
WRITER_COUNT: Final = MOUNT_COUNT * PROCESS_COUNT
BLOCK_BYTES: Final = 4096
HEAD: Final = struct.Struct("!QQ16s")  # writer, number, digest of all else
BLOCK_COUNT: Final = 16
PIECE_BYTES: Final = 512
SHIFT_S: Final = 2.0
TARGET_COUNT: Final = 6
FILE_BYTES: Final = (100, 5000, 300_000)
WAIT_S: Final = 120  # for a process, beyond its time
EXPECTED_LOG: Final = (
    "is not stored, its bytes are kept",
    "could not be stored, and are kept",
    "flush: ",
    "fsync: ",
)

Report = dict[str, Any]


class Wrong(AssertionError):
    """Something that a process has seen, and must not have."""


# Stamps


def stamped(writer: int, number: int, length: int = BLOCK_BYTES) -> bytes:
    filling = random.Random(writer << 32 | number).randbytes(length - HEAD.size)
    digest = hashlib.blake2b(filling, digest_size=16, key=b"%d %d" % (writer, number)).digest()
    return HEAD.pack(writer, number, digest) + filling


def stamp_of(block: bytes) -> tuple[int, int]:
    """Who wrote it, and which of theirs it is. Raises: Wrong where it is not whole."""
    if len(block) < HEAD.size:
        raise Wrong(f"{len(block)} bytes of a block")
    writer, number, digest = HEAD.unpack_from(block)
    key = b"%d %d" % (writer, number)
    if hashlib.blake2b(block[HEAD.size :], digest_size=16, key=key).digest() != digest:
        expected = stamped(writer, number, len(block))
        at = next(i for i, (had, has) in enumerate(zip(expected, block, strict=True)) if had != has)
        raise Wrong(f"{len(block)} bytes, of {number} of writer {writer} up to {at} only")
    return writer, number


def is_crossed(writer: int, other: int) -> bool:
    """Whether these two are on different mounts; who made the file at first is on none."""
    return other < WRITER_COUNT and writer % MOUNT_COUNT != other % MOUNT_COUNT


# What a process does until its time is over. `writer`: which of all it is.


def write_blocks(directory: Path, writer: int, rng: random.Random, end_s: float) -> Report:
    """Any block, onto whatever others write; read others meanwhile. Nothing is guarded."""
    path, last, seen = directory / "blocks", [-1] * BLOCK_COUNT, dict[Any, int]()
    read_count = crossed = 0
    for number in until(end_s):
        index = rng.randrange(BLOCK_COUNT)
        with opened(path, os.O_RDWR) as descriptor:
            os.pwrite(descriptor, stamped(writer, number), index * BLOCK_BYTES)
            last[index] = number
        with opened(path, os.O_RDONLY) as cached, opened(path, os.O_RDONLY | os.O_DIRECT) as direct:
            for at in rng.sample(range(BLOCK_COUNT), 4):
                found = seen_block(cached, direct, at)
                if seen.get((at, found[0]), -1) > found[1]:
                    raise Wrong(f"block {at}: {found} after {seen[at, found[0]]}")
                seen[at, found[0]] = found[1]
                read_count += 1
                crossed += is_crossed(writer, found[0])
    return {"written": number + 1, "read": read_count, "crossed": crossed, "last": last}


def seen_block(cached: int, direct: int, index: int) -> tuple[int, int]:
    """The stamp of it. The kernel copies out of its page cache while another process of the same
    mount copies into it, there as on ext4: what is torn there the mount itself must have whole.
    """
    try:
        return stamp_of(os.pread(cached, BLOCK_BYTES, index * BLOCK_BYTES))
    except Wrong:
        return stamp_of(os.pread(direct, BLOCK_BYTES, index * BLOCK_BYTES))


def write_own_pieces(directory: Path, writer: int, rng: random.Random, end_s: float) -> Report:
    """Each to a place of its own, in a file that all write, guarded: it is acknowledged, or stale,
    or refused by write(2) itself, where someone else's change was heard of since the open.

    Every SHIFT_S all go on to a new file, which the first of them makes.
    """
    outcomes: dict[str, list[list[int]]] = {"acknowledged": [], "stale": [], "refused": []}
    for number in until(end_s):
        shift = int(time.time() // SHIFT_S)
        at = (number * WRITER_COUNT + writer) * PIECE_BYTES
        outcome, if_stale = "acknowledged", "refused"
        try:
            with opened(directory / f"guarded-{shift}", os.O_RDWR | os.O_CREAT) as descriptor:
                os.pwrite(descriptor, stamped(writer, number, PIECE_BYTES), at)
                if_stale = "stale"
                if rng.random() < 0.3:
                    time.sleep(rng.random() / 50)
                if rng.random() < 0.3:
                    os.fsync(descriptor)
        except OSError as failure:
            if failure.errno != errno.ESTALE:
                raise
            outcome = if_stale
        outcomes[outcome].append([shift, number])
    return {"written": number + 1, **outcomes}


def append_lines(directory: Path, writer: int, rng: random.Random, end_s: float) -> Report:
    for number in until(end_s):
        line = line_of(writer, number)
        with opened(directory / "appended", os.O_RDWR | os.O_APPEND) as descriptor:
            os.write(descriptor, line)
        if number % 50 == 0 and line not in (directory / "appended").read_bytes():
            raise Wrong(f"line {number} of writer {writer} is not there after its close")
    return {"written": number + 1}


def create_exclusively(directory: Path, writer: int, rng: random.Random, end_s: float) -> Report:
    won = []
    for number in until(end_s):
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with opened(directory / f"exclusive-{number}", flags) as descriptor:
                os.write(descriptor, b"%d" % writer)
            won.append(number)
        except FileExistsError:
            pass
    return {"written": number + 1, "won": won}


def rename_over(directory: Path, writer: int, rng: random.Random, end_s: float) -> Report:
    """A file of one's own, onto a name that all rename onto, and read: always a whole one."""
    seen = crossed = 0
    for number in until(end_s):
        own = directory / f"own-{writer}-{number % 3}"
        own.write_bytes(stamped(writer, number, rng.choice(FILE_BYTES)))
        os.rename(own, directory / f"target-{rng.randrange(TARGET_COUNT)}")
        if own.exists():
            raise Wrong(f"{own.name} is there after its rename")
        with contextlib.suppress(FileNotFoundError):
            author = author_of(directory / f"target-{rng.randrange(TARGET_COUNT)}")
            seen += author is not None
            crossed += author is not None and is_crossed(writer, author)
    return {"written": number + 1, "read": seen, "crossed": crossed}


def author_of(path: Path) -> int | None:
    """Its writer, if it was the same from the open to the end; then it must be whole. What another
    mount replaces meanwhile shows in part, since the kernel asks for the rest of it later; and what
    was replaced between the open and the first look, up to the size of before, for a second."""
    with opened(path, os.O_RDONLY) as descriptor:
        version = os.getxattr(descriptor, "ceph.version")
        content = os.read(descriptor, os.fstat(descriptor).st_size)
        if os.getxattr(descriptor, "ceph.version") != version or is_cut(content):
            return None
    return stamp_of(content)[0]


def is_cut(content: bytes) -> bool:
    """Whether it is the beginning of a longer one."""
    if len(content) < HEAD.size:
        return False
    writer, number, _ = HEAD.unpack_from(content)
    longer = (length for length in FILE_BYTES if length > len(content))
    return any(stamped(writer, number, length).startswith(content) for length in longer)


WORKS: Final[dict[str, Callable[[Path, int, random.Random, float], Report]]] = {
    "blocks": write_blocks,
    "appends": append_lines,
    "exclusive": create_exclusively,
    "renames": rename_over,
    "guarded": write_own_pieces,
}


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """Closed in any case, and what close says is heard."""
    descriptor = os.open(path, flags, 0o644)
    try:
        yield descriptor
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)


def until(end_s: float) -> Iterator[int]:
    """0 and on, at least once."""
    for number in itertools.count():
        yield number
        if time.time() > end_s:
            return


def line_of(writer: int, number: int) -> bytes:
    return b"%d %d %s\n" % (writer, number, b"x" * (number * 7 % 500))


def main() -> None:
    work, directory, writer, seed, seconds = sys.argv[1:]
    rng = random.Random(f"{seed} {work} {writer}")
    report = WORKS[work](Path(directory), int(writer), rng, time.time() + float(seconds))
    print(json.dumps(report))


# What runs them, and verifies


class Game:
    """The works of one pair of mounts, one after the other."""

    def __init__(self, arena: Arena, mounts: list[Mount], objects: rados.Ioctx) -> None:
        self.arena, self.mounts, self.objects = arena, mounts, objects

    def play(self, work: str, seconds: float) -> list[Report]:
        """What the processes report, by writer."""
        seed = str(self.arena.random.getrandbits(32))
        processes = []
        for writer in range(WRITER_COUNT):
            path = self.mounts[writer % MOUNT_COUNT].path
            words = [work, str(path), str(writer), seed, str(seconds)]
            command = [sys.executable, "-m", "tests.battery.mounts", *words]
            processes.append(
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            )
        try:
            said = [process.communicate(timeout=seconds + WAIT_S) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        for process, (_, complaint) in zip(processes, said, strict=True):
            if process.returncode:
                raise RowFailed(f"{work}: a process has failed:\n{complaint}")
        reports = [json.loads(output) for output, _ in said]
        count = sum(report["written"] for report in reports)
        self.arena.figures.more[work] = count
        self.arena.figures.faults += sum(report.get("crossed", 0) for report in reports)
        return reports

    def require(self, is_so: bool, what: str) -> None:
        if not is_so:
            raise RowFailed(what)
        self.arena.figures.verified += 1

    def content(self, name: str) -> bytes:
        size, _ = self.objects.stat(name)
        content: bytes = self.objects.read(name, size + 1)
        self.arena.figures.verified_bytes += len(content)
        return content

    def blocks(self, seconds: float) -> None:
        """Every block that is read is one that somebody wrote, whole."""
        first = b"".join(stamped(WRITER_COUNT, index) for index in range(BLOCK_COUNT))
        self.objects.write_full("blocks", first)
        reports = self.play("blocks", seconds)
        content = self.content("blocks")
        self.require(len(content) == len(first), f"{len(content)} bytes of blocks")
        for index in range(BLOCK_COUNT):
            writer, number = stamp_of(content[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES])
            expected = reports[writer]["last"][index] if writer < WRITER_COUNT else index
            self.require(number == expected, f"block {index} has {number} of writer {writer}")
        self.arena.figures.verified += sum(report["read"] for report in reports)

    def appends(self, seconds: float) -> None:
        self.objects.write_full("appended", b"")
        counts = [report["written"] for report in self.play("appends", seconds)]
        lines = self.content("appended").splitlines(keepends=True)
        for writer, count in enumerate(counts):
            mine = [line for line in lines if line.startswith(b"%d " % writer)]
            expected = [line_of(writer, number) for number in range(count)]
            self.require(mine == expected, difference_of(mine, expected))
        self.require(len(lines) == sum(counts), f"{len(lines)} lines of {sum(counts)}")
        writers = [int(line.split()[0]) for line in lines]
        pairs = itertools.pairwise(writers)
        self.arena.figures.faults += sum(is_crossed(one, other) for one, other in pairs)

    def exclusive(self, seconds: float) -> None:
        reports = self.play("exclusive", seconds)
        lost_count = sum(report["written"] - len(report["won"]) for report in reports)
        self.arena.figures.faults += lost_count
        for number in range(max(report["written"] for report in reports)):
            winners = [w for w in range(WRITER_COUNT) if number in set(reports[w]["won"])]
            self.require(len(winners) == 1, f"exclusive-{number} was won by {winners}")
            self.require(
                self.content(f"exclusive-{number}") == b"%d" % winners[0],
                f"exclusive-{number} has not what its winner wrote",
            )

    def renames(self, seconds: float) -> None:
        reports = self.play("renames", seconds)
        names = [item.key for item in self.objects.list_objects()]
        self.require(not any(name.startswith("own-") for name in names), f"left over: {names}")
        for name in names:
            if name.startswith("target-"):
                stamp_of(self.content(name))
        self.arena.figures.verified += sum(report["read"] for report in reports)

    def end(self, expected_log: tuple[str, ...] = ()) -> None:
        for mount in self.mounts:
            self.require(mount.stop() == 0, "a mount did not end well")
            mount.check_log(expected_log)

    def account_for(self, reports: list[Report]) -> None:
        """What was refused is in the spool, or was stored after all; what was acknowledged is
        stored. When the mounts have ended."""
        stored, spooled = set[tuple[int, int]](), self.spooled_stamps()
        for item in self.objects.list_objects():
            if item.key.startswith("guarded-"):
                stored |= stamps_in(0, self.content(item.key))
        for writer, report in enumerate(reports):
            for outcome, found in (("acknowledged", stored), ("stale", stored | spooled)):
                numbers = {number for _, number in report[outcome]}
                lost = sorted(number for number in numbers if (writer, number) not in found)
                self.require(not lost, f"{outcome}, and lost: {lost[:20]} of writer {writer}")
                self.arena.figures.verified += len(numbers)
        stale_count = sum(len(report["stale"]) for report in reports)
        self.require(stale_count > 0, "there was no conflict")
        self.arena.figures.faults += stale_count
        self.arena.figures.more |= {"stale": stale_count, "spooled": len(spooled)}

    def spooled_stamps(self) -> set[tuple[int, int]]:
        stamps = set[tuple[int, int]]()
        for mount in self.mounts:
            for path in (mount.folder / "spool").glob(f"*{spoolfile.SUFFIX}"):
                for at, data in spoolfile.decode(path.read_bytes()).flight.changes.extents:
                    stamps |= stamps_in(at, bytes(data))
        return stamps


def stamps_in(start: int, data: bytes) -> set[tuple[int, int]]:
    """Of the pieces that were written from `start` on; zeros are none."""
    if start % PIECE_BYTES or len(data) % PIECE_BYTES:
        raise Wrong(f"a part of a piece: {len(data)} bytes at {start}")
    stamps = set()
    for at in range(0, len(data), PIECE_BYTES):
        piece = data[at : at + PIECE_BYTES]
        if any(piece):
            stamps.add(stamp_of(piece))
            writer, number = stamp_of(piece)
            if (number * WRITER_COUNT + writer) * PIECE_BYTES != start + at:
                raise Wrong(f"piece {number} of writer {writer} is at {start + at}")
    return stamps


def difference_of(mine: list[bytes], expected: list[bytes]) -> str:
    missing = [line[:30] for line in expected if line not in set(mine)]
    doubled = [line[:30] for line, count in counted(mine) if count > 1]
    return f"missing {missing[:5]}, doubled {doubled[:5]}, or in another order"


def counted(lines: list[bytes]) -> list[tuple[bytes, int]]:
    return [(line, len(list(group))) for line, group in itertools.groupby(sorted(lines))]


@contextlib.contextmanager
def game_of(arena: Arena, options: str) -> Iterator[Game]:
    with other_client(arena) as objects:
        mounts = [arena.make_mount() for _ in range(MOUNT_COUNT)]
        for mount in mounts:
            mount.start(arena.lab, f"ceph:{SHARED_POOL}/{arena.folder.name}", options)
        yield Game(arena, mounts, objects)


def play_unguarded(arena: Arena) -> None:
    with game_of(arena, "conflict=last-writer") as game:
        game.blocks(arena.sizes["seconds"])
        game.end()


def play_renames(arena: Arena) -> None:
    with game_of(arena, "conflict=last-writer") as game:
        game.renames(arena.sizes["seconds"])
        game.end()


def play_guarded(arena: Arena) -> None:
    with game_of(arena, "") as game:
        game.exclusive(arena.sizes["seconds"] / 4)
        reports = game.play("guarded", arena.sizes["seconds"] * 3 / 4)
        game.end(EXPECTED_LOG)
        game.account_for(reports)


def play_appends(arena: Arena) -> None:
    with game_of(arena, "") as game:
        game.appends(arena.sizes["seconds"])
        game.end()


SHORT: Final = {"seconds": 6}
LONG: Final = {"seconds": 300}
LIMIT_S: Final = (300, 3600)
UNGUARDED: Final = Row(
    "mounts",
    "two mounts of one place, four processes on each, write the same blocks with "
    "conflict=last-writer: every block that is read is one that somebody wrote, whole, and none "
    "comes back after a newer one of the same writer (faults: blocks that came from the other "
    "mount)",
    play_unguarded,
    SHORT,
    LONG,
    LIMIT_S,
)
GUARDED: Final = Row(
    "mounts-guarded",
    "the same two mounts with the guard on: one alone makes a file with O_EXCL, and what one has "
    "written over the other's change is ESTALE, and in the spool (faults: those who were refused)",
    play_guarded,
    SHORT,
    LONG,
    LIMIT_S,
)
APPENDS: Final = Row(
    "mounts-appends",
    "the same two mounts append lines to one file: none is lost, doubled, mixed or out of its "
    "writer's order (faults: lines that follow one of the other mount)",
    play_appends,
    SHORT,
    LONG,
    LIMIT_S,
)
RENAMES: Final = Row(
    "mounts-renames",
    "the same two mounts rename files over the same names: every file that is read is whole "
    "(faults: files that came from the other mount)",
    play_renames,
    SHORT,
    LONG,
    LIMIT_S,
)
ROWS: Final = (UNGUARDED, GUARDED, APPENDS, RENAMES)

if __name__ == "__main__":
    main()
