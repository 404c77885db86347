"""A file system with the tree view, over a memory store."""

import os

import trio

from radosmount.config import NamesMode, ViewConfig
from radosmount.errors import (
    StoreFailure,
)
from radosmount.store.memory import Call
from radosmount.vfs.nodes import ROOT_INO
from tests.support.mounts import MountBench

TREE = ViewConfig(pool=b"assets", names=NamesMode.TREE)


class TreeBench(MountBench):
    """Speaks of files and directories by path, as the kernel would, component by component."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__(nursery, view=TREE)
        self.listings = 0
        self.store.fail_next(StoreFailure("never"), self._count)

    def _count(self, call: Call) -> bool:
        self.listings += call.method == "list_objects"
        return False

    async def parent(self, path: bytes) -> tuple[int, bytes]:
        *above, name = path.split(b"/")
        ino = ROOT_INO
        for component in above:
            ino = (await self.fs.lookup(ino, component)).ino
        return ino, name

    async def is_directory(self, path: bytes) -> bool:
        return bool((await self.fs.lookup(*await self.parent(path))).mode & 0o040000)

    async def mkdir(self, path: bytes) -> None:
        await self.fs.make_directory(*await self.parent(path))

    async def rmdir(self, path: bytes) -> None:
        await self.fs.remove_directory(*await self.parent(path))

    async def write(self, path: bytes, data: bytes) -> None:
        parent, name = await self.parent(path)
        opened, _ = await self.fs.create(parent, name, os.O_CREAT | os.O_RDWR)
        await self.fs.write(opened.handle, 0, data)
        await self.close(opened.handle)

    async def read_file(self, path: bytes) -> bytes:
        ino = (await self.fs.lookup(*await self.parent(path))).ino
        handle = (await self.fs.open(ino, os.O_RDONLY)).handle
        data = await self.read(handle)
        await self.close(handle)
        return data

    async def remove(self, path: bytes) -> None:
        await self.fs.unlink(*await self.parent(path))

    async def move(self, old: bytes, new: bytes) -> None:
        await self.fs.rename(*await self.parent(old), *await self.parent(new), may_replace=True)

    async def ls(self, path: bytes = b"") -> set[bytes]:
        ino = ROOT_INO
        if path:
            ino = (await self.fs.lookup(*await self.parent(path))).ino
        names = await self.names(ino)
        assert len(set(names)) == len(names)
        return set(names)
