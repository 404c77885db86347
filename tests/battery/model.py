"""The whole file system against a model, over a store that fails, delays, loses replies and fills,
and changes the order of everything.

Programs run at once, each on names of its own, so that each knows what it has to find; trio runs
their tasks in an order by seed, on a clock that jumps. An operation that failed may have happened
or not: the program looks, and takes either, but nothing else.

Another client changes files, too: those that nobody has open, and a second later the mount shows
what they are; and those that are being written, which is ESTALE. What it changes while the mount
reads, or has operations under way, is the business of the rows `behind` and `mounts`.
"""

import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import trio
import trio.testing

from radosmount.errors import (
    Disconnected,
    FilesystemError,
    NoSpace,
    NoSuchEntry,
    QuotaExceeded,
    StaleFile,
    StoreError,
    TimedOut,
    VersionConflict,
    XattrMissing,
)
from radosmount.store.memory import MemoryStore
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from tests.battery.modelstore import DELAY_MAX_S, XATTR_KEY, Faults, File, Others
from tests.battery.row import Arena, Row, RowFailed
from tests.support.mounts import MountBench
from tests.support.schedules import run_seeded
from tests.support.stores import key_of

PROGRAM_COUNT: Final = 3
NAMES_A_PROGRAM: Final = 3
XATTR: Final = b"user." + XATTR_KEY
LOOK_COUNT_MAX: Final = 500
SHOWN_S: Final = 1.1  # until stat, after a listing, tells of what others have changed


@dataclass
class Open:
    handle: int
    ino: int
    name: bytes | None  # None: unlinked, or replaced
    file: File


class Program:
    """One of them: it does one thing after the other, and looks at each."""

    def __init__(self, mount: MountBench, faults: Faults, number: int, rng: random.Random) -> None:
        self.mount, self.faults, self.random = mount, faults, rng
        self.names = [b"p%d-%d" % (number, index) for index in range(NAMES_A_PROGRAM)]
        self.files: dict[bytes, File] = {}
        self.opened: list[Open] = []
        self.references: dict[int, int] = {}
        self.verified = 0
        self.others = Others(mount.store, rng)

    def require(self, is_so: bool, what: str) -> None:
        if not is_so:
            raise RowFailed(what)
        self.verified += 1

    async def run(self, step_count: int) -> None:
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self.create,
            self.open,
            self.write,
            self.write,
            self.write,
            self.read,
            self.read,
            self.truncate,
            self.sync,
            self.close,
            self.rename,
            self.unlink,
            self.set_xattr,
            self.look,
            self.list,
            self.rest,
            self.change_behind,
            self.conflict,
        )
        for _ in range(step_count):
            await self.random.choice(steps)()

    # Asking again until the store answers

    async def answer(self, call: Callable[[], Awaitable[object]]) -> object:
        """Raises: what is no failure of the store."""
        for _ in range(LOOK_COUNT_MAX):
            try:
                return await call()
            except StoreError as failure:
                if not failure.is_transient:
                    raise
        raise RowFailed("the store fails for ever")

    async def look_up(self, name: bytes) -> int | None:
        """Its inode; None where there is none."""

        async def look() -> int:
            return (await self.mount.fs.lookup(ROOT_INO, name)).ino

        try:
            ino = await self.answer(look)
        except NoSuchEntry:
            return None
        assert isinstance(ino, int)
        self.references[ino] = self.references.get(ino, 0) + 1
        return ino

    async def content_of(self, name: bytes) -> bytes | None:
        """By a new handle; None where there is no such file."""
        for _ in range(LOOK_COUNT_MAX):
            ino = await self.look_up(name)
            if ino is None:
                return None
            with contextlib.suppress(StaleFile):
                return await self.content_by_ino(ino)
        raise RowFailed(f"{name!r} is looked up, and stale")

    async def content_by_ino(self, ino: int) -> bytes:
        opened = await self.answer(lambda: self.mount.fs.open(ino, os.O_RDONLY))
        handle: int = opened.handle  # type: ignore[attr-defined]
        try:
            content = await self.answer(lambda: self.mount.read(handle))
        finally:
            await self.mount.fs.release(handle)
        assert isinstance(content, bytes)
        return content

    # What it does

    def some_name(self) -> bytes:
        return self.random.choice(self.names)

    def some_open(self) -> Open | None:
        return self.random.choice(self.opened) if self.opened else None

    async def create(self) -> None:
        name = self.some_name()
        if name in self.files:
            return
        flags = os.O_RDWR | os.O_EXCL * (self.random.random() < 0.5)
        try:
            handle, ino = await self.mount.create(name, flags)
        except StoreError as failure:
            self.require(failure.is_transient, f"create: {failure!r}")
            found = await self.content_of(name)
            self.require(found in (None, b""), f"{name!r} has {found!r} after a failed create")
            if found is not None:
                self.files[name] = File(b"")
            return
        self.references[ino] = self.references.get(ino, 0) + 1
        self.files[name] = File(b"")
        self.opened.append(Open(handle, ino, name, self.files[name]))

    async def open(self) -> None:
        name = self.some_name()
        ino = await self.look_up(name)
        self.require((ino is None) == (name not in self.files), f"{name!r} is {ino}")
        if ino is None:
            return
        flags = os.O_RDWR | self.random.choice((0, 0, os.O_TRUNC, os.O_APPEND))
        found = await self.answer(lambda: self.mount.fs.open(ino, flags))
        file = self.files[name]
        if flags & os.O_TRUNC:
            file.content = b""
        handle: int = found.handle  # type: ignore[attr-defined]
        self.opened.append(Open(handle, ino, name, file))

    async def write(self) -> None:
        if (item := self.some_open()) is None:
            return
        data = self.random.randbytes(self.random.choice((1, 5, 40)))
        offset = self.random.randrange(60)
        if self.mount.fs._opens.handles[item.handle].is_append:
            offset = len(item.file.content)
        await self.mount.fs.write(item.handle, offset, data)
        before = item.file.content.ljust(offset, b"\0")
        item.file.content = before[:offset] + data + before[offset + len(data) :]

    async def read(self) -> None:
        if (item := self.some_open()) is None:
            return
        offset, length = self.random.randrange(70), self.random.randrange(1, 70)
        found = await self.answer(lambda: self.mount.read(item.handle, offset, length))
        expected = item.file.content[offset : offset + length]
        self.require(found == expected, f"{item.name!r} reads {found!r} for {expected!r}")

    async def truncate(self) -> None:
        if (item := self.some_open()) is None:
            return
        size = self.random.randrange(60)
        change = AttributeChange(size=size)
        await self.answer(lambda: self.mount.fs.set_attributes(item.ino, change, item.handle))
        item.file.content = item.file.content[:size].ljust(size, b"\0")

    async def sync(self) -> None:
        if (item := self.some_open()) is None:
            return
        try:
            await self.mount.fs.sync(item.handle)
        except (StoreError, FilesystemError) as failure:
            self.require(getattr(failure, "is_transient", False), f"fsync: {failure!r}")
            return
        if item.name is not None:
            stored = self.mount.stored(item.name)
            text = f"{item.name!r} is synced as {stored!r}, and is {item.file.content!r}"
            self.require(stored == item.file.content, text)

    async def close(self) -> None:
        if (item := self.some_open()) is None:
            return
        self.opened.remove(item)
        with contextlib.suppress(TimedOut, Disconnected, NoSpace, QuotaExceeded):
            await self.mount.fs.flush(item.handle)
            if item.name is not None:
                stored = self.mount.stored(item.name)
                text = f"{item.name!r} is closed as {stored!r}, and is {item.file.content!r}"
                self.require(stored == item.file.content, text)
        await self.mount.fs.release(item.handle)

    async def rename(self) -> None:
        old, new = self.some_name(), self.some_name()
        if old not in self.files or old == new or self.opened_as(old) or self.opened_as(new):
            return  # after a lost reply, who has it open may have lost it
        try:
            await self.mount.rename(old, new)
        except StoreError as failure:
            self.require(failure.is_transient, f"rename: {failure!r}")
            await self.look_after_rename(old, new)
            return
        self.files[new] = self.files.pop(old)

    async def look_after_rename(self, old: bytes, new: bytes) -> None:
        """One or both names, each whole, never neither."""
        source, target = self.files[old], self.files.get(new)
        found = await self.content_of(old)
        self.require(found in (None, source.content), f"{old!r} has {found!r} after a rename")
        if found is None:
            del self.files[old]
        found_new = await self.content_of(new)
        before = None if target is None else target.content
        allowed = {source.content} if found is None else {source.content, before}
        self.require(found_new in allowed, f"{new!r} has {found_new!r} after a rename")
        if found_new is not None:
            await self.look_at_xattr(new, File(found_new), source, target)

    async def look_at_xattr(
        self, name: bytes, now: File, source: File, target: File | None
    ) -> None:
        now.xattr = await self.xattr_of(name)
        allowed = {source.xattr} | ({target.xattr} if target is not None else set())
        self.require(now.xattr in allowed, f"{name!r} has the xattr {now.xattr!r}")
        self.files[name] = now

    def opened_as(self, name: bytes) -> bool:
        return any(item.name == name for item in self.opened)

    async def unlink(self) -> None:
        name = self.some_name()
        if name not in self.files:
            return
        try:
            await self.mount.unlink(name)
        except NoSuchEntry:
            raise RowFailed(f"{name!r} is gone already") from None
        except StoreError as failure:
            self.require(failure.is_transient, f"unlink: {failure!r}")
            found = await self.content_of(name)
            self.require(found in (None, self.files[name].content), f"{name!r} is {found!r}")
            if found is not None:
                await self.unlink_again(name)
        self.files.pop(name)
        for item in self.opened:
            if item.name == name:
                item.name = None

    async def unlink_again(self, name: bytes) -> None:
        """It may be gone by the first time, though what is unstored has shown it."""
        with contextlib.suppress(NoSuchEntry):
            await self.answer(lambda: self.mount.unlink(name))

    async def set_xattr(self) -> None:
        name = self.some_name()
        ino = await self.look_up(name)
        if ino is None:
            return
        value = self.random.choice((b"x", b"yy"))
        try:
            await self.mount.fs.set_xattr(ino, XATTR, value)
        except StoreError as failure:
            self.require(failure.is_transient, f"setxattr: {failure!r}")
            found = await self.xattr_of(name)
            allowed = (value, self.files[name].xattr)
            self.require(found in allowed, f"{name!r} has the xattr {found!r}")
            value = found  # type: ignore[assignment]
        self.files[name].xattr = value

    async def xattr_of(self, name: bytes) -> bytes | None:
        ino = await self.look_up(name)
        if ino is None:
            raise RowFailed(f"{name!r} is gone")
        try:
            value = await self.answer(lambda: self.mount.fs.get_xattr(ino, XATTR))
        except XattrMissing:
            return None
        assert isinstance(value, bytes)
        return value

    async def look(self) -> None:
        await self.look_at(self.some_name())

    async def look_at(self, name: bytes) -> None:
        expected = self.files.get(name)
        found = await self.content_of(name)
        self.require(
            found == (None if expected is None else expected.content), f"{name!r} is {found!r}"
        )
        if expected is not None:
            xattr = await self.xattr_of(name)
            self.require(xattr == expected.xattr, f"{name!r} has the xattr {xattr!r}")

    async def list(self) -> None:
        listed = await self.answer(self.mount.names)
        assert isinstance(listed, list)
        mine = sorted(name for name in listed if name in self.names)
        self.require(mine == sorted(self.files), f"listed: {mine}, there: {sorted(self.files)}")

    async def rest(self) -> None:
        await trio.sleep(self.random.random() * 10)

    # What another client does

    def change_by_another(self, name: bytes) -> None:
        file = self.others.change(name, self.files.pop(name, None))
        if file is not None:
            self.files[name] = file

    def is_at_rest(self, name: bytes) -> bool:
        return not self.opened_as(name) and name.decode() not in self.mount.fs.unwritten()

    async def change_behind(self) -> None:
        name = self.some_name()
        if self.is_at_rest(name):
            self.change_by_another(name)
            await trio.sleep(SHOWN_S)
            await self.look_at(name)

    async def conflict(self) -> None:
        """What was written is refused, and what another client has made of it stays."""
        name = self.some_name()
        if name not in self.files or not self.is_at_rest(name):
            return
        ino = await self.look_up(name)
        assert ino is not None
        found = await self.answer(lambda: self.mount.fs.open(ino, os.O_RDWR))
        handle: int = found.handle  # type: ignore[attr-defined]
        await self.mount.fs.write(handle, self.random.randrange(60), b"refused")
        self.change_by_another(name)
        with contextlib.suppress(VersionConflict):
            await self.answer(lambda: self.mount.fs.flush(handle))
            raise RowFailed(f"{name!r}: written over what another client has changed")
        await self.mount.fs.release(handle)
        await trio.sleep(SHOWN_S)
        await self.look_at(name)

    # The end: the store answers everything

    async def end(self) -> None:
        for item in list(self.opened):
            for _ in range(LOOK_COUNT_MAX):
                try:
                    await self.mount.fs.flush(item.handle)
                    break
                except StoreError as failure:
                    self.require(failure.is_transient, f"close: {failure!r}")
            await self.mount.fs.release(item.handle)
        self.opened.clear()

    async def verify_stored(self) -> None:
        for name in self.names:
            expected, stored = self.files.get(name), self.mount.stored(name)
            content = None if expected is None else expected.content
            self.require(stored == content, f"{name!r} is stored as {stored!r}, not {content!r}")
            if expected is not None:
                xattrs = self.mount.store.xattrs_now(key_of(name))
                self.require(
                    xattrs.get(XATTR_KEY) == expected.xattr, f"xattrs of {name!r}: {xattrs}"
                )
        self.mount.fs.forget(list(self.references.items()))


async def play(rng: random.Random, step_count: int, arena: Arena) -> None:
    async with trio.open_nursery() as nursery:
        store = MemoryStore()
        atomic_max_bytes = rng.choice((0, 20, 1 << 20))
        mount = MountBench(nursery, store, atomic_max_bytes=atomic_max_bytes, timeout_s=1e6)
        await mount.fs.start()
        await trio.testing.wait_all_tasks_blocked()
        faults = Faults(store, random.Random(rng.random()))
        programs = [
            Program(mount, faults, number, random.Random(rng.random()))
            for number in range(PROGRAM_COUNT)
        ]
        async with trio.open_nursery() as running:
            for program in programs:
                running.start_soon(program.run, step_count // PROGRAM_COUNT)
        faults.end()
        for program in programs:
            await program.end()
        await mount.fs.flush_all()
        await trio.sleep(DELAY_MAX_S)  # what is being fetched ahead of a closed handle comes in
        await trio.testing.wait_all_tasks_blocked()
        for program in programs:
            await program.verify_stored()
        verify_empty(mount)
        arena.figures.faults += faults.count
        others_count = sum(program.others.count for program in programs)
        arena.figures.more["by_others"] = int(arena.figures.more.get("by_others", 0)) + others_count
        arena.figures.verified += sum(program.verified for program in programs)
        nursery.cancel_scope.cancel()


def verify_empty(mount: MountBench) -> None:
    """A file whose error nobody has heard stays until its next opener has."""
    unheard = [
        node
        for node in mount.fs._nodes.files()
        if node.file.error_count > node.file.reported_error_count
    ]
    held = {
        "dirty bytes": mount.fs.dirty_bytes(),
        "unwritten": len(mount.fs.unwritten()),
        "read ahead": mount.fs._opens.ahead.held_bytes,
        "inodes": len(mount.fs._nodes) - len(unheard) - 1,
    }
    if any(held.values()):
        raise RowFailed(f"left over: {held}")


def compare_with_model(arena: Arena) -> None:
    logger = logging.getLogger("radosmount")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # the failures are ordered
    try:
        for _ in range(arena.sizes["sequences"]):
            seed = arena.random.getrandbits(32)
            try:
                play_seeded(seed, arena)
            except BaseException as failure:
                failure.add_note(f"seed of the sequence: {seed}")
                raise
    finally:
        logger.setLevel(level)


def play_seeded(seed: int, arena: Arena) -> None:
    async def main() -> None:
        await play(random.Random(seed), arena.sizes["steps"], arena)

    run_seeded(seed, main)


ROWS: Final = (
    Row(
        "model",
        "the file system against a model, over a store that fails, and that others change",
        compare_with_model,
        {"sequences": 500, "steps": 100},
        {"sequences": 10_000, "steps": 200},
        limit_s=(300, 7200),
    ),
)
