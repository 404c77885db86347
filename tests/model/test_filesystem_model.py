"""The file system against a simple model: names, handles, bytes and xattrs."""

import contextlib
import os
import random
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from radosmount.errors import NoSpace, RadosmountError, StaleFile
from radosmount.store.memory import Call
from radosmount.vfs.attributes import AttributeChange
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench
from tests.support.schedules import run_seeded
from tests.support.stores import is_apply

pytestmark = pytest.mark.expects_log("is not stored|could not be stored")

NAMES: Final = (b"a", b"b", b"c")
Operation = tuple[object, ...]

names = st.sampled_from(NAMES)
slots = st.integers(0, 4)  # which of the open handles
data = st.binary(min_size=1, max_size=12)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("open"), names, st.booleans(), st.booleans()),
        st.tuples(st.just("create exclusively"), names),
        st.tuples(st.just("write"), slots, st.integers(0, 20), data),
        st.tuples(st.just("write"), slots, st.integers(0, 20), data),
        st.tuples(st.just("read on"), slots, st.integers(1, 4), st.integers(1, 6)),
        st.tuples(st.just("read on"), slots, st.integers(1, 4), st.integers(1, 6)),
        st.tuples(st.just("ftruncate"), slots, st.integers(0, 25)),
        st.tuples(st.just("truncate"), names, st.integers(0, 25)),
        st.tuples(st.just("sync"), slots, st.booleans()),
        st.tuples(st.just("start sync"), slots),
        st.tuples(st.just("close"), slots),
        st.tuples(st.just("rename"), names, names),
        st.tuples(st.just("unlink"), names),
        st.tuples(st.just("xattr"), names, st.sampled_from([b"x", b"yy", None])),
        st.tuples(st.just("forget")),
    ),
    max_size=30,
)


@dataclass
class FileModel:
    content: bytearray = field(default_factory=bytearray)
    xattr: bytes | None = None
    is_dirty: bool = False
    handles: list["HandleModel"] = field(default_factory=list)


@dataclass
class HandleModel:
    """`reader`: a second handle that reads on from `read_offset`, a little at a time."""

    number: int
    reader: int
    ino: int
    file: FileModel
    is_append: bool
    has_unheard_error: bool = False
    read_offset: int = 0


class World:
    """The mount and the model, side by side."""

    def __init__(self, mount: MountBench, nursery: trio.Nursery) -> None:
        self.mount = mount
        self.nursery = nursery
        self.files: dict[bytes, FileModel] = {}
        self.handles: list[HandleModel] = []
        self.references: dict[int, int] = defaultdict(int)

    async def look_up(self, name: bytes) -> int:
        ino = (await self.mount.stat(name)).ino
        self.references[ino] += 1
        return ino

    async def apply(self, operation: Operation) -> None:
        match operation:
            case ("open", bytes(name), bool(truncates), bool(is_append)):
                await self.open(name, truncates, is_append)
            case ("create exclusively", bytes(name)) if name not in self.files:
                await self.create(name, os.O_RDWR | os.O_EXCL, is_append=False)
            case ("truncate", bytes(name), int(size)) if name in self.files:
                ino = await self.look_up(name)
                change = AttributeChange(size=size)
                await self.mount.fs.set_attributes(ino, change)
                resize(self.files[name].content, size)
                self.files[name].is_dirty = False
            case ("rename", bytes(old), bytes(new)) if old in self.files and old != new:
                await self.mount.rename(old, new)
                self.files[new] = self.files.pop(old)
                self.files[new].is_dirty = False
            case ("unlink", bytes(name)) if name in self.files:
                await self.mount.unlink(name)
                del self.files[name]
            case ("xattr", bytes(name), value) if name in self.files:
                await self.set_xattr(name, value)  # type: ignore[arg-type]
            case ("forget",):
                self.forget()
            case (str(_), int(slot), *_) if slot < len(self.handles):
                await self.apply_to_handle(self.handles[slot], operation)

    async def apply_to_handle(self, handle: HandleModel, operation: Operation) -> None:
        content, fs = handle.file.content, self.mount.fs
        match operation:
            case ("write", _, int(offset), bytes(written)):
                await fs.write(handle.number, offset, written)
                offset = len(content) if handle.is_append else offset
                resize(content, max(offset + len(written), len(content)))
                content[offset : offset + len(written)] = written
                handle.file.is_dirty = True
            case ("read on", _, int(length), int(count)):
                for _ in range(count):
                    await self.read_on(handle, length)
            case ("ftruncate", _, int(size)):
                change = AttributeChange(size=size)
                await fs.set_attributes(handle.ino, change, handle.number)
                resize(content, size)
                handle.file.is_dirty = True
            case ("sync", _, bool(fails)):
                await self.sync(handle, fails)
            case ("start sync", _) if not handle.has_unheard_error:
                self.nursery.start_soon(fs.sync, handle.number)
                await trio.testing.wait_all_tasks_blocked()
                handle.file.is_dirty = False
            case ("close", _):
                await self.close(handle)

    async def open(self, name: bytes, truncates: bool, is_append: bool) -> None:
        flags = os.O_RDWR | truncates * os.O_TRUNC | is_append * os.O_APPEND
        if name not in self.files:
            await self.create(name, flags, is_append)
            return
        ino = await self.look_up(name)
        opened = await self.mount.fs.open(ino, flags)
        if truncates:
            self.files[name].content.clear()
            self.files[name].is_dirty = True
        await self.add_handle(opened.handle, ino, self.files[name], is_append)

    async def create(self, name: bytes, flags: int, is_append: bool) -> None:
        number, ino = await self.mount.create(name, flags)
        self.references[ino] += 1
        self.files[name] = FileModel(is_dirty=not flags & os.O_EXCL)
        await self.add_handle(number, ino, self.files[name], is_append)

    async def add_handle(self, number: int, ino: int, file: FileModel, is_append: bool) -> None:
        reader = (await self.mount.fs.open(ino, os.O_RDONLY)).handle
        handle = HandleModel(number, reader, ino, file, is_append)
        file.handles.append(handle)
        self.handles.append(handle)

    async def read_on(self, handle: HandleModel, length: int) -> None:
        """Sequentially, from the beginning again behind the end."""
        offset = handle.read_offset
        part = await self.mount.read(handle.reader, offset, length)
        assert part == bytes(handle.file.content[offset : offset + length])
        handle.read_offset = offset + length if part else 0

    async def sync(self, handle: HandleModel, fails: bool) -> None:
        """With `fails` the store refuses what this sync sends, if it sends anything."""
        is_linked = handle.file in self.files.values()
        is_failing = fails and handle.file.is_dirty and is_linked
        if is_failing:
            self.mount.store.fail_next(NoSpace("injected"), is_apply)
            for other in handle.file.handles:
                other.has_unheard_error = True
        heard = False
        try:
            await self.mount.fs.sync(handle.number)
        except NoSpace:
            heard = True
        assert heard == handle.has_unheard_error
        handle.has_unheard_error = False
        handle.file.is_dirty = handle.file.is_dirty and is_failing

    async def close(self, handle: HandleModel) -> None:
        heard = False
        try:
            await self.mount.fs.flush(handle.number)
        except RadosmountError:
            heard = True
        assert heard == handle.has_unheard_error
        await self.mount.fs.release(handle.number)
        await self.mount.fs.release(handle.reader)
        self.handles.remove(handle)
        handle.file.handles.remove(handle)
        handle.file.is_dirty = False

    async def set_xattr(self, name: bytes, value: bytes | None) -> None:
        file, ino = self.files[name], await self.look_up(name)
        if value is not None:
            await self.mount.fs.set_xattr(ino, b"user.k", value)
        elif file.xattr is not None:
            await self.mount.fs.set_xattr(ino, b"user.k", None)
        file.xattr = value

    def forget(self) -> None:
        """As the kernel does under memory pressure: inodes that nobody has open."""
        in_use = {handle.ino for handle in self.handles}
        for ino in [ino for ino in self.references if ino not in in_use]:
            self.mount.fs.forget([(ino, self.references.pop(ino))])

    async def check(self) -> None:
        for handle in self.handles:
            assert await self.mount.read(handle.number) == bytes(handle.file.content)
            found = await self.mount.fs.get_attributes(handle.ino)
            assert found.size == len(handle.file.content)
            assert found.nlink == (handle.file in self.files.values())
        for name, file in self.files.items():
            ino = await self.look_up(name)
            assert (await self.mount.fs.get_attributes(ino)).size == len(file.content)
            listed = await self.mount.fs.list_xattrs(ino)
            assert listed == ([] if file.xattr is None else [b"user.k"])
        assert sorted(await self.mount.names()) == sorted(self.files)

    async def check_stored(self) -> None:
        for handle in list(self.handles):
            await self.close(handle)
        stored = {name: self.mount.stored(name) for name in NAMES}
        expected = {name: bytes(file.content) for name, file in self.files.items()}
        assert {name: data for name, data in stored.items() if data is not None} == expected
        for name, file in self.files.items():
            xattrs = {} if file.xattr is None else {b"k": file.xattr}
            assert self.mount.store.xattrs_now(self.mount.key(name)) == xattrs
        assert self.mount.fs.unwritten() == []
        assert self.mount.fs.dirty_bytes() == 0
        await trio.testing.wait_all_tasks_blocked()
        assert self.mount.fs._opens.ahead.held_bytes == 0
        self.forget()
        assert len(self.mount.fs._nodes) == 1
        assert self.mount.fs._nodes[ROOT_INO] is not None


def resize(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


@settings(max_examples=400, deadline=None)
@given(seed=st.integers(0, 1000), operations=operations, atomic_max=st.sampled_from([0, 1 << 20]))
def test_filesystem_is_a_dict_of_bytearrays(
    seed: int, operations: list[Operation], atomic_max: int
) -> None:
    """Names, handles, content and xattrs are what a local disk would have, also for files that
    were unlinked or renamed over while open; the store has the same in the end."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            mount = MountBench(nursery, atomic_max_bytes=atomic_max)
            await mount.fs.start()
            world = World(mount, nursery)
            for operation in operations:
                await world.apply(operation)
                await world.check()
            await world.check_stored()
            nursery.cancel_scope.cancel()

    run_seeded(seed, main, jumps=False)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ending=st.sampled_from(["unlink", "rename", "rename over", "nothing"]),
    atomic_max=st.sampled_from([0, 1 << 20]),
    is_stored=st.booleans(),
)
def test_writers_race_with_unlink_and_rename(
    seed: int, ending: str, atomic_max: int, is_stored: bool
) -> None:
    """Whatever comes between write, sync, xattr, unlink and rename of one file: no late write
    brings an unlinked object back, and a renamed one has every byte."""

    async def main() -> None:
        await play_race(random.Random(seed), ending, atomic_max, is_stored)

    run_seeded(seed, main)


async def play_race(rng: random.Random, ending: str, atomic_max: int, is_stored: bool) -> None:
    async with trio.open_nursery() as nursery:
        mount = MountBench(nursery, atomic_max_bytes=atomic_max)
        await mount.fs.start()
        if is_stored:
            await mount.put(b"a", b"0123456789")
        await mount.put(b"b", b"target")

        async def delay(call: Call) -> None:
            await trio.sleep(rng.random() / 10)

        mount.store.delay = delay
        handle = await mount.open(b"a") if is_stored else (await mount.create(b"a"))[0]
        target = await mount.open(b"b")
        reader = (await mount.fs.open((await mount.stat(b"a")).ino, os.O_RDONLY)).handle
        ino = (await mount.stat(b"a")).ino
        model = bytearray(b"0123456789" if is_stored else b"")
        versions = [bytes(model)]  # the last one may be under way

        async def write() -> None:
            for _ in range(8):
                offset = rng.randrange(20)
                versions.append(bytes(model[:offset]).ljust(offset, b"\0") + b"xyz")
                versions[-1] += bytes(model[offset + 3 :])
                await mount.fs.write(handle, offset, b"xyz")
                resize(model, max(offset + 3, len(model)))
                model[offset : offset + 3] = b"xyz"
                assert await mount.read(handle) == bytes(model)
                await trio.sleep(rng.random() / 10)

        async def read_on() -> None:
            offset = 0
            for _ in range(30):
                known = max(len(versions) - 2, 0)
                part = await mount.read(reader, offset, 2)
                for at, byte in enumerate(part, offset):
                    assert byte in [
                        version[at] for version in versions[known:] if at < len(version)
                    ]
                offset = offset + len(part) if part else 0

        async def sync() -> None:
            for _ in range(3):
                await trio.sleep(rng.random() / 10)
                await mount.fs.sync(handle)

        async def decorate() -> None:
            await trio.sleep(rng.random() / 5)
            with contextlib.suppress(StaleFile):
                await mount.fs.set_xattr(ino, b"user.k", b"v")
                change = AttributeChange(mtime_ns=10**18)
                await mount.fs.set_attributes(ino, change, handle)

        async def end() -> None:
            await trio.sleep(rng.random() / 2)
            if ending == "unlink":
                await mount.unlink(b"a")
            elif ending != "nothing":
                await mount.rename(b"a", b"c" if ending == "rename" else b"b")

        async with trio.open_nursery() as race:
            for task in (write, read_on, sync, sync, decorate, end):
                race.start_soon(task)
        assert await mount.read(handle) == bytes(model)
        if ending == "rename over":
            assert await mount.read(target) == b"target"
        for opened in (reader, handle, target):
            await mount.close(opened)
        name = {"unlink": None, "rename": b"c", "rename over": b"b", "nothing": b"a"}[ending]
        expected = {b"b": b"target", **({name: bytes(model)} if name else {})}
        stored = {name: mount.stored(name) for name in NAMES}
        assert {name: data for name, data in stored.items() if data is not None} == expected
        assert mount.fs.dirty_bytes() == 0
        nursery.cancel_scope.cancel()
