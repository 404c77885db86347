"""A client that the cluster cuts off and lets in again, and a pool that is deleted and made again,
each while files are dirty, others are being written, and another client changes some of them."""

import contextlib
import errno
import functools
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import rados

from radosmount.cache import spoolfile
from radosmount.cache.changes import Flight
from radosmount.config import MIB
from tests.battery.dirty import (
    CHANGES,
    KINDS,
    Dirty,
    Restless,
    change_it,
    laid_over,
    open_dirty,
    some_bytes,
)
from tests.battery.kills import Load, Writer
from tests.battery.row import CONNECT_S, Arena, Objects, Row, RowFailed
from tests.mount.calls import can, eventually, fails
from tests.mount.mounting import Mount
from tests.mount.restoring import restore_words, restored
from tests.support.cluster import SHARED_POOL

USER: Final = "cut-off"
OPTIONS: Final = "timeout=30,dirty_expire=3600"  # nothing is flushed but by fsync, or once more
EXPECTED: Final = (
    "has cut this client off",
    "connected anew",
    "errno 108",
    "is not stored, its bytes are kept",
    "could not be stored, and are kept",
    "another client has changed it",
    "No such file or directory",
    "was removed",
    r"does not exist \(any more\)",
)
CUT_OFF_S: Final = (0.0, 3.0)  # every connection that it makes meanwhile is blocklisted, too
BLOCKLIST_S: Final = 3600.0
PG_COUNT: Final = 4
WRITER_COUNT: Final = 3
FILES_A_WRITER: Final = 3
LARGEST_BYTES: Final = 2 * MIB
BACK_S: Final = 90.0
POLL_S: Final = 0.2
RESTORE_REFUSED: Final = 32


class Cluster:
    """Another client. It commands the monitors from this process: a child, until its exec, would
    close what is open here, and hear of the errors."""

    def __init__(self, client: rados.Rados) -> None:
        self._client = client
        self._blocklisted: list[str] = []

    def command(self, prefix: str, target: str | None = None, **words: Any) -> bytes:
        text = json.dumps({"prefix": prefix, "format": "json", **words})
        code, output, complaint = self._client.mon_command(text, b"", CONNECT_S, target)
        if code:
            raise RowFailed(f"{prefix}: {complaint}")
        return output

    def cut_off(self, user: str) -> None:
        """Blocklist every connection of `user`."""
        for session in json.loads(self.command("sessions", "a")):
            [address] = session["addrs"]["addrvec"]
            place = f"{address['addr']}/{address['nonce']}"
            if session["entity_name"] == f"client.{user}" and place not in self._blocklisted:
                self._blocklist("add", place, expire=BLOCKLIST_S)
                self._blocklisted.append(place)

    def allow(self) -> int:
        """All that were cut off; return how many."""
        count = len(self._blocklisted)
        while self._blocklisted:
            self._blocklist("rm", self._blocklisted.pop())
        return count

    def _blocklist(self, how: str, place: str, **words: Any) -> None:
        self.command("osd blocklist", blocklistop=how, addr=place, **words)

    def delete_pool(self, pool: str) -> None:
        sure: dict[str, Any] = {"yes_i_really_really_mean_it": True}
        self.command("osd pool delete", pool=pool, pool2=pool, **sure)

    def create_pool(self, pool: str) -> None:
        self.command("osd pool create", pool=pool, pg_num=PG_COUNT)
        self.command("osd pool application enable", pool=pool, app="rados")

    @contextlib.contextmanager
    def objects(self, pool: str) -> Iterator[Objects]:
        self._client.wait_for_latest_osdmap()
        with contextlib.closing(self._client.open_ioctx(pool)) as ioctx:
            yield Objects(ioctx)


@dataclass
class Scene:
    """One mount of all pools, and writers in one that stays."""

    arena: Arena
    cluster: Cluster
    mount: Mount
    writers: list[Writer]
    more: Counter[str] = field(default_factory=Counter)

    @property
    def dice(self) -> random.Random:
        return self.arena.random

    def require(self, is_so: bool, what: str) -> None:
        if not is_so:
            raise RowFailed(what)
        self.arena.figures.verified += 1

    def require_content(self, name: str, found: bytes | None, content: bytes | None) -> None:
        sizes = [None if one is None else len(one) for one in (found, content)]
        self.require(found == content, f"{name}: {sizes[0]} bytes for {sizes[1]}, or wrong ones")
        self.arena.figures.verified_bytes += len(found or b"")

    # Those that are in the midst of it

    @contextlib.contextmanager
    def under_writers(self) -> Iterator[None]:
        """The block runs when all have begun; then all go on, and what they know is there."""
        directory, load = self.mount.path / SHARED_POOL, Load()
        works = [functools.partial(one.work, directory, load.over) for one in self.writers]
        with load.running(works) as check:
            self.wait_for_progress(check)
            yield
            self.wait_for_progress(check)
        with self.cluster.objects(SHARED_POOL) as objects:
            for writer in self.writers:
                writer.verify(objects.read_whole, directory, self.arena.figures)

    def wait_for_progress(self, check: Callable[[], None]) -> None:
        before = [writer.acknowledged for writer in self.writers]

        def is_made() -> bool:
            check()
            pairs = zip(self.writers, before, strict=True)
            return all(writer.acknowledged > count for writer, count in pairs)

        eventually(is_made, BACK_S)

    def refusals(self) -> int:
        return sum(writer.refused.total() for writer in self.writers)

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        """How long all is back, at the longest."""
        began_s = time.monotonic()
        yield
        took_s = time.monotonic() - began_s
        key, more = f"longest_{kind}_s", self.arena.figures.more
        more[key] = max(float(more.get(key, 0)), round(took_s, 1))

    @contextlib.contextmanager
    def opened(
        self, directory: Path, prefix: str, changes: Collection[str]
    ) -> Iterator[list[Dirty]]:
        """A file of each kind, for each of the changes."""
        with contextlib.ExitStack() as stack:
            files = []
            for kind in KINDS:
                for change in changes if kind != "new" else [*changes][:2]:
                    file = open_dirty(directory / f"{prefix}-{kind}-{change}", kind, self.dice)
                    stack.callback(file.abandon)
                    file.change = change
                    files.append(file)
            yield files

    # The client is cut off, and let in again

    def blocklist(self, number: int) -> None:
        directory = self.mount.path / SHARED_POOL
        prefix = f"cut-off-{number}"
        with (
            self.cluster.objects(SHARED_POOL) as objects,
            self.opened(directory, prefix, CHANGES) as files,
            self.clean(directory / f"{prefix}-clean") as verify_clean,
        ):
            with self.under_writers():
                self.cut_off_and_allow(objects, files)
                with self.timed("allowed_again"):
                    verify_clean(objects)
                    self.verify_stored(objects, [one for one in files if one.change == "none"])
                lost = [one for one in files if one.change != "none"]
                self.verify_stale(objects, lost)
            self.restore(objects, lost, "--force writes it all the same")

    @contextlib.contextmanager
    def clean(self, path: Path) -> Iterator[Callable[[Objects], None]]:
        """A file that is open and clean. Reading goes on; a new open has what others write."""
        path.write_bytes(old := some_bytes(self.dice))

        def verify(objects: Objects) -> None:
            self.require_content(path.name, path.read_bytes(), old)
            objects.ioctx.write_full(path.name, new := some_bytes(self.dice))
            self.require_content(path.name, path.read_bytes(), new)
            self.require_content(path.name, read_of(reader.fileno()), new)

        with path.open("rb") as reader:
            yield verify

    def cut_off_and_allow(self, objects: Objects, files: list[Dirty]) -> None:
        """Some are dirty before, the others since."""
        early = self.dice.sample(files, len(files) // 2)
        for file in early:
            file.make_dirty(self.dice)
        end_s = time.monotonic() + self.dice.uniform(*CUT_OFF_S)
        self.cluster.cut_off(USER)
        for file in files:
            if file not in early:
                file.make_dirty(self.dice)
            change_it(objects, file, self.dice)
        while time.monotonic() < end_s:
            self.cluster.cut_off(USER)
        count = self.cluster.allow()
        self.require(count > 0, "there was no connection to cut off")
        self.arena.figures.faults += count

    def verify_stored(self, objects: Objects, files: list[Dirty]) -> None:
        """What the cut has failed once, is stored by itself."""
        for file in files:
            for _ in range(self.dice.randrange(3)):
                can(lambda: os.fsync(file.descriptor), errno.EIO)  # noqa: B023
            if not can(file.close, errno.EIO):
                eventually(lambda: objects.read_whole(file.path.name) == file.content)  # noqa: B023
            self.require_content(file.path.name, objects.read_whole(file.path.name), file.content)
            self.require_content(file.path.name, file.path.read_bytes(), file.content)

    def verify_stale(self, objects: Objects, files: list[Dirty]) -> None:
        """What another client has changed is as that has left it."""
        for file in files:
            present = objects.read_whole(file.path.name)
            with fails(errno.ESTALE):
                while not can(lambda: os.fsync(file.descriptor), errno.EIO):  # noqa: B023
                    pass
            with fails(errno.ESTALE):
                file.close()
            self.require_content(file.path.name, objects.read_whole(file.path.name), present)
            self.require_content(file.path.name, content_of(file.path), present)
        self.more["stale"] += len(files)

    # The pool is deleted, and made again

    def remake_pool(self, number: int) -> None:
        pool = f"remade-{number}"
        self.arena.lab.create_pool(pool)
        directory = self.mount.path / pool
        clean = directory / "clean"
        clean.write_bytes(old := some_bytes(self.dice))
        with self.opened(directory, "file", CHANGES[:2]) as files, clean.open("rb") as reader:
            before = self.refusals()
            with self.under_writers():
                self.delete_and_make(pool, files)
                with self.cluster.objects(pool) as objects:
                    with self.timed("pool_shown"):
                        self.verify_gone(objects, files)
                        what = read_of(reader.fileno())
                        # Of what the kernel has kept only a part, a read ends before the rest.
                        is_known = what is None or (what != b"" and old.startswith(what))
                        self.require(is_known, f"clean: {what and len(what)} B of another pool")
                        eventually(lambda: is_shown(directory, objects), BACK_S)
                    (directory / "fresh").write_bytes(old)
                    self.require_content("fresh", objects.read_whole("fresh"), old)
            self.require(self.refusals() == before, "another pool was refused")
            with self.cluster.objects(pool) as objects:
                self.restore(objects, files, "made anew: --force writes to the new")
        self.arena.lab.delete_pool(pool)

    def delete_and_make(self, pool: str, files: list[Dirty]) -> None:
        """One of the files is being written meanwhile; another client has made some of the others
        in the new pool."""
        for file in files:
            file.make_dirty(self.dice)
        written = next(file for file in files if file.kind == "overwritten")
        restless = Restless(written, random.Random(self.dice.getrandbits(64)))
        waits = self.dice.random() < 0.5
        with ThreadPoolExecutor(1) as one:
            working = one.submit(restless.work)
            eventually(lambda: restless.acknowledged > 3 or working.done())
            self.cluster.delete_pool(pool)
            self.arena.figures.faults += 1
            if waits:
                working.result(BACK_S)
            self.cluster.create_pool(pool)
            working.result(BACK_S)
        with self.cluster.objects(pool) as objects:
            for file in files:
                change_it(objects, file, self.dice)

    def verify_gone(self, objects: Objects, files: list[Dirty]) -> None:
        """Every handle hears, and nothing comes into the pool that only has the same name."""
        present = {file.path.name: objects.read_whole(file.path.name) for file in files}
        for file in files:
            with fails(errno.ENOENT):
                os.fsync(file.descriptor)
            with fails(errno.ENOENT):
                file.close()
        for name, content in present.items():
            self.require_content(name, objects.read_whole(name), content)

    # The spool

    def restore(self, objects: Objects, files: list[Dirty], refusal: str) -> None:
        """The spool has these and nothing else, and `radosmount restore` writes them back."""
        spool = self.mount.folder / "spool"
        eventually(lambda: len(list(spool.glob(f"*{spoolfile.SUFFIX}"))) >= len(files))
        by_name: dict[str, Any] = {}
        for path in spool.iterdir():
            spooled = spoolfile.decode(path.read_bytes())
            by_name[spooled.key.name.decode()] = (path, spooled.flight)
        names = {file.path.name for file in files}
        self.require(by_name.keys() == names, f"spooled: {by_name.keys() ^ names} too much or not")
        for file in files:
            found = laid_over(file.before or b"", by_name[file.path.name][1])
            self.require_content(file.path.name, found, file.content)
        self.more["spooled"] += len(files)
        command = [*restore_words(self.mount)[:-1], *(str(path) for path, _ in by_name.values())]
        self.verify_refused(restored(*command), len(files), refusal)
        present = {name: objects.read_whole(name) for name in names}
        restored(*command, "--force")
        for file in files:
            path, flight = by_name[file.path.name]
            self.verify_restored(objects, file, path, flight, present[file.path.name])
            path.unlink(missing_ok=True)

    def verify_refused(
        self, result: "subprocess.CompletedProcess[str]", count: int, refusal: str
    ) -> None:
        lines = result.stderr.splitlines()
        is_right = result.returncode == RESTORE_REFUSED and len(lines) == count
        self.require(is_right and all(refusal in line for line in lines), f"restore: {result}")

    def verify_restored(
        self, objects: Objects, file: Dirty, path: Path, flight: Flight, present: bytes | None
    ) -> None:
        """A part of a file that is gone cannot be; else all that was written is there."""
        found = objects.read_whole(file.path.name)
        if flight.replaces_all:
            self.require_content(file.path.name, found, file.content)
        elif present is None:
            self.require(found is None and path.exists(), f"{file.path.name} was made of a part")
        else:
            for offset, data in flight.changes.extents:
                part = (found or b"")[offset : offset + len(data)]
                self.require_content(file.path.name, part, bytes(data))
        eventually(lambda: content_of(file.path) == found)


def content_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def read_of(descriptor: int) -> bytes | None:
    """None where its object is gone."""
    try:
        return os.pread(descriptor, LARGEST_BYTES, 0)
    except OSError as failure:
        if failure.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return None


def is_shown(directory: Path, objects: Objects) -> bool:
    """Whether the directory shows the pool that has these."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        time.sleep(POLL_S)  # a line in the log each
        return False
    stored = [item.key for item in objects.ioctx.list_objects()]
    return sorted(names) == sorted(stored) and all(
        content_of(directory / name) == objects.read_whole(name) for name in names
    )


@contextlib.contextmanager
def another_client(arena: Arena) -> Iterator[Cluster]:
    client = rados.Rados(name="client.admin", conffile=str(arena.lab.conf_path))
    client.connect(timeout=CONNECT_S)
    try:
        yield Cluster(client)
    finally:
        client.shutdown()


def new_writer(number: int, dice: random.Random) -> Writer:
    """What it sends while it is cut off fails with EIO, once."""
    own_dice = random.Random(dice.getrandbits(64))
    return Writer(f"w{number}", own_dice, FILES_A_WRITER, LARGEST_BYTES, (errno.EIO,))


def cut_off(arena: Arena) -> None:
    """Whatever is taken from the mount: what was acknowledged elsewhere stays, what cannot be
    stored is in the spool, and the mount goes on."""
    keyring = arena.lab.add_user(USER, mon="allow r", osd="allow rwx", mgr="allow r")
    options = f"{OPTIONS},keyring={keyring}"
    writers = [new_writer(number, arena.random) for number in range(WRITER_COUNT)]
    with (
        another_client(arena) as cluster,
        arena.mounted(f"{USER}@ceph:", options, EXPECTED) as mount,
    ):
        scene = Scene(arena, cluster, mount, writers)
        for number in range(arena.sizes["rounds"]):
            scene.blocklist(number)
            scene.remake_pool(number)
    changes = sum(writer.acknowledged for writer in writers)
    arena.figures.more |= {**scene.more, "changes": changes, "refusals": scene.refusals()}
    arena.figures.verified_bytes += sum(writer.verified_bytes for writer in writers)


ROWS: Final = (
    Row(
        "cut-off",
        "the client blocklisted and allowed again, and a pool deleted and made again, each while "
        "files are dirty, writers go on, and another client changes some files: what was "
        "acknowledged stays, what nobody else has changed is stored by itself, the rest is an "
        "error and in the spool, byte for byte, nothing comes into the new pool of the old name, "
        "and the mount goes on",
        cut_off,
        {"rounds": 2},
        {"rounds": 10},
        limit_s=(300, 3600),
        needs_own_lab=True,
    ),
)
