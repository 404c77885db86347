"""kill -9 of the mount at random moments, under writers that know what was acknowledged to them."""

import contextlib
import errno
import functools
import itertools
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

from radosmount.config import KIB, MIB
from tests.battery.row import Arena, Figures, Row, RowFailed

ATOMIC_MAX_BYTES: Final = 16 * MIB  # the default of -o atomic_max
SMALLEST_BYTES: Final = 4 * KIB
LARGEST_BYTES: Final = 20 * MIB
BLOCK_BYTES: Final = 4 * KIB
PIECE_BYTES: Final = 4 * MIB
PATIENCE_S: Final = 120.0  # for a call that is tried again and again
RETRY_S: Final = 0.05
DEAD_MOUNT: Final = (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
MOMENT_S: Final = (0.05, 1.5)  # of the kill, after the writers have begun
SETTLE_S: Final = 10.0  # what the dead client has sent may still be under way to the OSD

T = TypeVar("T")


@dataclass(frozen=True)
class Attempt:
    """A change that was begun, and not acknowledged yet; `content` None removes the file.

    `is_whole`: the file shows all of it or nothing. Else each byte is old or new by itself, or as
    it was `between` two writes, and of what was there before, the first `kept_bytes` cannot be
    missing.
    """

    content: bytes | None
    is_whole: bool
    kept_bytes: int = 0
    moved_from: str | None = None
    between: tuple[bytes, ...] = ()


@dataclass
class File:
    """`settled`: what was acknowledged last; None: that there is no such file."""

    name: str
    settled: bytes | None = None
    attempt: Attempt | None = None

    def check(self, found: bytes | None, others: Callable[[str], bytes | None]) -> str:
        """Whether it may have this content; return which it is. Raises: RowFailed."""
        if found == self.settled:
            self._check_its_source(others)
            return "old"
        if self.attempt is None:
            raise RowFailed(f"{self.name}: {sizes(self.settled, found)}, and nothing was begun")
        if found == self.attempt.content:
            return "new"
        if self.attempt.is_whole or found is None:
            wanted = sizes(self.settled, found, self.attempt.content)
            raise RowFailed(f"{self.name}: neither the old nor the new content: {wanted}")
        known = (self.settled or b"", *self.attempt.between, self.attempt.content or b"")
        if not is_mixture(found, known, self.attempt.kept_bytes):
            wanted = sizes(self.settled, found, self.attempt.content)
            raise RowFailed(f"{self.name}: has bytes that are neither old nor new: {wanted}")
        return "mixed"

    def _check_its_source(self, others: Callable[[str], bytes | None]) -> None:
        """A rename that did not replace it has left the other name, whole."""
        attempt = self.attempt
        if attempt is None or attempt.moved_from is None:
            return
        if others(attempt.moved_from) != attempt.content:
            raise RowFailed(f"{attempt.moved_from} is gone, and {self.name} has not its content")


def sizes(settled: bytes | None, found: bytes | None, attempt: bytes | None = None) -> str:
    def size(content: bytes | None) -> str:
        return "none" if content is None else f"{len(content)} bytes"

    text = f"settled {size(settled)}, begun {size(attempt)}, found {size(found)}"
    for kind, content in (("settled", settled), ("begun", attempt)):
        if content is not None and found is not None:
            pairs = enumerate(zip(content, found, strict=False))
            first = next((at for at, (a, b) in pairs if a != b), None)
            text += f"; differs from {kind} at {first}"
    return text


def is_mixture(found: bytes, known: tuple[bytes, ...], kept_bytes: int) -> bool:
    """Whether each byte is that of one of `known`; behind `kept_bytes` there may be holes."""
    if not kept_bytes <= len(found) <= max(map(len, known)):
        return False
    for begin in range(0, len(found), BLOCK_BYTES):
        block = found[begin : begin + BLOCK_BYTES]
        if any(block == content[begin : begin + len(block)] for content in known):
            continue
        for at, byte in enumerate(block, begin):
            is_known = any(at < len(content) and byte == content[at] for content in known)
            if not is_known and (byte or at < kept_bytes):
                return False
    return True


class Writer:
    """Changes files that are its own, one after the other, and knows what was acknowledged.

    `transient`: errnos after which it tries again until it works. Any other error ends it.
    """

    def __init__(
        self,
        name: str,
        dice: random.Random,
        file_count: int,
        largest_bytes: int = LARGEST_BYTES,
        transient: Collection[int] = (),
    ) -> None:
        self.files = [File(f"{name}-{number}") for number in range(file_count)]
        self.fresh = [File(f"{file.name}.new") for file in self.files]  # renamed over the others
        self.acknowledged = 0
        self.verified_bytes = 0
        self.refused: Counter[str] = Counter()
        self.longest_s = 0.0
        self._dice = dice
        self._largest_bytes = largest_bytes
        self._transient = frozenset(transient)
        self._directory = Path()

    def work(self, directory: Path, over: threading.Event) -> None:
        """Until `over`, when the mount may be dead, too."""
        self._directory = directory
        try:
            while not over.is_set():
                began_s = time.monotonic()
                self.step()
                self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        except OSError as failure:
            if not over.is_set() or failure.errno not in DEAD_MOUNT:
                raise

    def step(self) -> None:
        """One change of one file, or a look at it."""
        number = self._dice.randrange(len(self.files))
        file = self.files[number]
        steps: list[Callable[[], None]] = [
            lambda: self.rewrite(file, self._random_bytes()),
            lambda: self.rewrite(file, self._random_bytes(), is_halved=True),
            lambda: self.replace(file, self.fresh[number], self._random_bytes()),
        ]
        if file.settled:
            steps += [lambda: self._overwrite(file), lambda: self._read_back(file)]
            if len(file.settled) < self._largest_bytes:
                steps += [lambda: self._append(file)] * 2
        if file.settled is not None and self._dice.random() < 0.2:
            steps += [lambda: self._remove(file)]
        self._dice.choice(steps)()

    def rewrite(self, file: File, content: bytes, *, is_halved: bool = False) -> None:
        """A new file, or O_TRUNC. `is_halved`: with an fsync in the midst."""
        half = len(content) // 2 if is_halved else 0
        first = content[:half] or content
        file.attempt = Attempt(first, is_whole=len(first) <= ATOMIC_MAX_BYTES)
        with self._opened(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            self._write(descriptor, first)
            if half:
                self._sync(descriptor)
                self._acknowledge(file)
                file.attempt = Attempt(content, is_whole=False, kept_bytes=half)
                self._write(descriptor, content[half:])
            self._end(descriptor, file)

    def replace(self, file: File, fresh: File, content: bytes) -> None:
        """As editors save: a new file that is renamed over the old one."""
        self.rewrite(fresh, content)
        file.attempt = Attempt(content, is_whole=True, moved_from=fresh.name)
        fresh.attempt = Attempt(None, is_whole=True)
        source, target = self._directory / fresh.name, self._directory / file.name
        self._take_away(lambda: os.rename(source, target))
        self._acknowledge(file)
        self._acknowledge(fresh)

    def _overwrite(self, file: File) -> None:
        old = file.settled or b""
        contents = [old]
        parts: list[tuple[int, bytes]] = []
        for _ in range(self._dice.randrange(1, 5)):
            offset = self._dice.randrange(len(old))
            part = self._random_bytes()[: len(old) - offset]
            new = bytearray(contents[-1])
            new[offset : offset + len(part)] = part
            contents.append(bytes(new))
            parts.append((offset, part))
        between = tuple(contents[1:-1])  # the parts may overlap, and go out one after the other
        file.attempt = Attempt(contents[-1], is_whole=False, kept_bytes=len(old), between=between)
        with self._opened(file, os.O_RDWR) as descriptor:
            for offset, part in parts:
                self._write(descriptor, part, offset)
            self._end(descriptor, file)

    def _append(self, file: File) -> None:
        old = file.settled or b""
        part = self._random_bytes()
        file.attempt = Attempt(old + part, is_whole=False, kept_bytes=len(old))
        with self._opened(file, os.O_WRONLY | os.O_APPEND) as descriptor:
            self._write(descriptor, part)
            self._end(descriptor, file)

    def _remove(self, file: File) -> None:
        file.attempt = Attempt(None, is_whole=True)
        path = self._directory / file.name
        self._take_away(path.unlink)
        self._acknowledge(file)

    def _read_back(self, file: File) -> None:
        found = self._insist((self._directory / file.name).read_bytes)
        if found != file.settled:
            raise RowFailed(f"{file.name} reads wrong: {sizes(file.settled, found)}")
        self.verified_bytes += len(found)

    def _random_bytes(self) -> bytes:
        """Of a size between the bounds, small ones as likely as large ones."""
        factor = self._largest_bytes / SMALLEST_BYTES
        return self._dice.randbytes(int(SMALLEST_BYTES * factor ** self._dice.random()))

    @contextlib.contextmanager
    def _opened(self, file: File, flags: int) -> Iterator[int]:
        """What was begun is acknowledged when the block is left."""
        path = self._directory / file.name
        descriptor = self._insist(lambda: os.open(path, flags, 0o666))
        try:
            yield descriptor
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            raise
        self._close(descriptor, path)
        self._acknowledge(file)

    def _close(self, descriptor: int, path: Path) -> None:
        """An error of close tells that the bytes are on their way: fsync tells when they are in."""
        while True:
            try:
                return os.close(descriptor)
            except OSError as failure:
                if failure.errno not in self._transient:
                    raise
                self._note(failure)
            descriptor = self._insist(lambda: os.open(path, os.O_WRONLY))
            try:
                self._sync(descriptor)
            except BaseException:
                os.close(descriptor)
                raise

    def _end(self, descriptor: int, file: File) -> None:
        if self._dice.random() < 0.5:
            self._sync(descriptor)
            self._acknowledge(file)

    def _sync(self, descriptor: int) -> None:
        self._insist(lambda: os.fsync(descriptor))

    def _write(self, descriptor: int, data: bytes, offset: int | None = None) -> None:
        done = 0
        while done < len(data):
            rest = data[done : done + PIECE_BYTES]
            if offset is None:
                done += self._insist(functools.partial(os.write, descriptor, rest))
            else:
                done += self._insist(functools.partial(os.pwrite, descriptor, rest, offset + done))

    def _insist(self, call: Callable[[], T]) -> T:
        """Call until it works."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except OSError as failure:
                if failure.errno not in self._transient or time.monotonic() > deadline_s:
                    raise
                self._note(failure)
            time.sleep(RETRY_S)

    def _take_away(self, call: Callable[[], None]) -> None:
        """A removal or a rename. Where it was tried before, it may have worked after all."""
        tries = itertools.count()

        def once() -> None:
            is_first = next(tries) == 0
            try:
                call()
            except FileNotFoundError:
                if is_first:
                    raise

        self._insist(once)

    def _note(self, failure: OSError) -> None:
        self.refused[errno.errorcode[failure.errno or 0]] += 1

    def _acknowledge(self, file: File) -> None:
        if file.attempt is not None:
            file.settled, file.attempt = file.attempt.content, None
            self.acknowledged += 1

    def begun(self) -> int:
        return sum(file.attempt is not None for file in self.files + self.fresh)

    def verify(
        self, read: Callable[[str], bytes | None], through: Path, figures: Figures
    ) -> Counter[str]:
        """Check all files past the mount (`read`) and through one; what they have is settled."""
        results: Counter[str] = Counter()
        found: dict[str, bytes | None] = {}
        for file in self.files + self.fresh:
            reading = functools.partial(read, file.name)
            found[file.name] = settled_content(reading, through / file.name)
        for file in self.files + self.fresh:
            was_begun = file.attempt is not None
            result = file.check(found[file.name], found.__getitem__)
            if was_begun:
                results[result] += 1
        for file in self.files + self.fresh:
            file.settled, file.attempt = found[file.name], None
            figures.verified += 1
            figures.verified_bytes += len(file.settled or b"")
        return results


def settled_content(read: Callable[[], bytes | None], path: Path) -> bytes | None:
    """The content, which is the same past the mount and through it, by and by."""
    deadline_s = time.monotonic() + SETTLE_S
    while True:
        stored, shown = read(), content_of(path)
        if stored == shown:
            return stored
        if time.monotonic() > deadline_s:
            raise RowFailed(f"{path.name}: the mount shows other bytes: {sizes(stored, shown)}")
        time.sleep(RETRY_S)


def content_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@dataclass
class Load:
    """Workers on threads, until the end; the first failure of any is raised by `check`."""

    over: threading.Event = field(default_factory=threading.Event)

    @contextlib.contextmanager
    def running(self, works: Collection[Callable[[], None]]) -> Iterator[Callable[[], None]]:
        """Begin all; yields `check`. With the block they end, if their mount still answers."""
        with ThreadPoolExecutor(len(works)) as pool:
            futures = [pool.submit(work) for work in works]

            def check() -> None:
                for future in futures:
                    if future.done():
                        future.result()

            try:
                yield check
            finally:
                self.over.set()
        for future in futures:
            future.result()


def kill_9(arena: Arena) -> None:
    """What fsync, close, rename and unlink have acknowledged is there after a kill -9, whole; of
    what was under way each file has the old content or the new one."""
    count, files = arena.sizes["writers"], arena.sizes["files"]
    writers = [
        Writer(f"w{number}", random.Random(arena.random.getrandbits(64)), files)
        for number in range(count)
    ]
    results: Counter[str] = Counter()
    mount = arena.make_mount()
    with arena.objects() as objects:
        mount.start(arena.lab, arena.source)
        for _ in range(arena.sizes["rounds"]):
            before = sum(writer.acknowledged for writer in writers)
            load = Load()
            works = [functools.partial(one.work, mount.path, load.over) for one in writers]
            with load.running(works) as check:
                time.sleep(arena.random.uniform(*MOMENT_S))
                check()
                load.over.set()
                mount.kill()
            arena.figures.faults += 1
            results["acknowledged"] += sum(one.acknowledged for one in writers) - before
            results["under_way"] += sum(one.begun() for one in writers)
            mount.start(arena.lab, arena.source)
            for writer in writers:
                results += writer.verify(objects.read_whole, mount.path, arena.figures)
        mount.stop()
        mount.check_log()
    if not results["acknowledged"] or not results["under_way"]:
        raise RowFailed(f"no kill hit a change under way: {results}")
    arena.figures.verified_bytes += sum(writer.verified_bytes for writer in writers)
    arena.figures.more |= {f"changes_{kind}": number for kind, number in results.items()}


ROWS = (
    Row(
        "kill-9",
        "kill -9 of the mount at random moments under concurrent writers (new files, rewriting, "
        "overwriting in place, appending, renaming over; 4 KiB to 20 MiB): what was acknowledged "
        "is whole, past the new mount and through it; what was not is old or new",
        kill_9,
        {"rounds": 10, "writers": 4, "files": 3},
        {"rounds": 200, "writers": 6, "files": 4},
    ),
)
