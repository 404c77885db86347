"""A mount without a cluster: an empty root over the real session, daemon and life cycle.

Run as a program: empty_mount.py SOURCE MOUNTPOINT [-f] [-o ...].
"""

import errno
import os
import stat
import sys
from typing import cast

import pyfuse3
import trio

from radosmount import cli, lifecycle
from radosmount.config import Config
from radosmount.fuse.session import Session, kernel_cache
from radosmount.logs import configure_logging
from radosmount.store.interface import Store


class EmptyStore:
    async def aclose(self) -> None:
        pass


class EmptyFilesystem:
    """Takes a while to flush, when asked for by EMPTY_MOUNT_FLUSH_S."""

    def __init__(self) -> None:
        self._names = ["unwritten"]

    async def start(self) -> None:
        pass

    async def flush_all(self) -> None:
        await trio.sleep(float(os.environ.get("EMPTY_MOUNT_FLUSH_S", "0")))
        self._names = []

    async def spool_unwritten(self) -> None:
        pass

    def advanced_s(self) -> float:
        return 0.0

    def dirty_bytes(self) -> int:
        return len(self._names)

    def unwritten(self) -> list[str]:
        return self._names


class Root(pyfuse3.Operations):
    """One empty directory."""

    supports_dot_lookup = False

    def __init__(self, on_init: lifecycle.OnReady) -> None:
        super().__init__()
        self._on_init = on_init

    def init(self) -> None:
        self._on_init()

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        attributes = pyfuse3.EntryAttributes()
        attributes.st_ino = inode
        attributes.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755)
        attributes.attr_timeout = 0
        return attributes

    async def getxattr(
        self, inode: pyfuse3.InodeT, name: pyfuse3.XAttrNameT, ctx: pyfuse3.RequestContext
    ) -> bytes:
        if name != b"ceph.radosmount.pid":
            raise pyfuse3.FUSEError(errno.ENODATA)
        return str(os.getpid()).encode()

    async def opendir(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileHandleT:
        return pyfuse3.FileHandleT(1)

    async def readdir(
        self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken
    ) -> None:
        pass

    async def fsyncdir(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        if os.environ.get("EMPTY_MOUNT_REFUSES"):
            raise pyfuse3.FUSEError(errno.EDQUOT)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return pyfuse3.StatvfsData()


async def open_store(config: Config) -> Store:
    return cast(Store, EmptyStore())


def make(
    store: Store, config: Config, nursery: trio.Nursery, on_ready: lifecycle.OnReady
) -> tuple[EmptyFilesystem, Session]:
    session = Session(Root, config.fuse, kernel_cache(config.fuse), on_ready)
    return EmptyFilesystem(), session


def serve(config: Config, announce_ready: lifecycle.OnReady) -> int:
    configure_logging(config)
    return lifecycle.run(config, announce_ready, lifecycle.Parts(open_store, make))


if __name__ == "__main__":
    cli.serve = serve
    sys.exit(cli.main())
