"""A file system over a memory store, spoken to as the kernel does, by name and handle."""

import os
from dataclasses import replace

import trio

from radosmount.config import CacheConfig, ViewConfig
from radosmount.store.interface import ObjectKey
from radosmount.store.memory import MemoryStore
from radosmount.vfs.attributes import AttributeChange, Attributes
from radosmount.vfs.filesystem import Filesystem
from radosmount.vfs.nodes import ROOT_INO
from tests.support.stores import key_of


class MountBench:
    """The pool `assets` is the root, unless `view` says otherwise."""

    def __init__(
        self,
        nursery: trio.Nursery,
        store: MemoryStore | None = None,
        view: ViewConfig | None = None,
        **settings: object,
    ) -> None:
        self.store = store or MemoryStore()
        self.invalidated: list[int] = []
        self.fs = Filesystem(
            self.store,
            view or ViewConfig(pool=b"assets"),
            replace(CacheConfig(), **settings),  # type: ignore[arg-type]
            nursery,
            self.invalidated.append,
        )

    async def create(self, name: bytes, flags: int = os.O_RDWR) -> tuple[int, int]:
        """open(2) with O_CREAT of a name that is not there: (handle, inode)."""
        opened, attributes = await self.fs.create(ROOT_INO, name, flags | os.O_CREAT)
        return opened.handle, attributes.ino

    async def open(self, name: bytes, flags: int = os.O_RDWR) -> int:
        """open(2) of an existing name."""
        attributes = await self.fs.lookup(ROOT_INO, name)
        return (await self.fs.open(attributes.ino, flags)).handle

    async def close(self, handle: int) -> None:
        try:
            await self.fs.flush(handle)
        finally:
            await self.fs.release(handle)

    async def put(self, name: bytes, data: bytes) -> None:
        """As `cp`: a new file, written and closed."""
        handle, _ = await self.create(name)
        await self.fs.write(handle, 0, data)
        await self.close(handle)

    async def get(self, name: bytes) -> bytes:
        """As `cat`."""
        handle = await self.open(name, os.O_RDONLY)
        data = await self.read(handle)
        await self.close(handle)
        return data

    async def read(self, handle: int, offset: int = 0, length: int = 1 << 20) -> bytes:
        return bytes(await self.fs.read(handle, offset, length))

    async def stat(self, name: bytes) -> Attributes:
        return await self.fs.lookup(ROOT_INO, name)

    async def truncate(self, name: bytes, size: int) -> None:
        """truncate(2)."""
        ino = (await self.stat(name)).ino
        await self.fs.set_attributes(ino, AttributeChange(size=size))

    async def unlink(self, name: bytes) -> None:
        await self.fs.unlink(ROOT_INO, name)

    async def rename(self, old: bytes, new: bytes, may_replace: bool = True) -> None:
        await self.fs.rename(ROOT_INO, old, ROOT_INO, new, may_replace)

    async def names(self, ino: int = ROOT_INO) -> list[bytes]:
        """As `ls -a`, without `.` and `..`; the kernel keeps no reference."""
        handle, found, index = self.fs.open_directory(ino), list[bytes](), 0
        while (entry := await self.fs.list_entry(handle, index)) is not None:
            found.append(entry.name)
            self.fs.take_entry(entry, is_taken=False)
            index = entry.next_index
        await self.fs.release_directory(handle)
        return found

    def stored(self, name: bytes) -> bytes | None:
        return self.store.read_now(self.key(name))

    def key(self, name: bytes) -> ObjectKey:
        return key_of(name)


async def started(nursery: trio.Nursery, **settings: object) -> MountBench:
    bench = MountBench(nursery, **settings)  # type: ignore[arg-type]
    await bench.fs.start()
    return bench
