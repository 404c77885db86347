"""Extended attributes.

`user.KEY` is the RADOS xattr KEY, byte for byte. The other namespaces are answered from
constants: the kernel and `ls -l` ask for security.* and system.* of every file, and RADOS is
never troubled. `ceph.*` are virtual: readable, never listed, as in CephFS.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Final

from radosmount.cache.file import CachedFile
from radosmount.cache.pagecache import PageCache
from radosmount.config import PID_XATTR, UNSTORED_XATTR, ViewConfig
from radosmount.errors import (
    ObjectNotFound,
    StaleFile,
    Unsupported,
    XattrMissing,
    XattrNameInvalid,
    XattrTooBig,
)
from radosmount.store import posix
from radosmount.store.interface import Notice, RemoveXattr, SetXattr, Store
from radosmount.vfs.nodes import ROOT_INO, FileNode, Node
from radosmount.vfs.objects import Objects
from radosmount.vfs.pools import Pools

USER_PREFIX: Final = b"user."
VIRTUAL_PREFIX: Final = b"ceph."
# What names that begin so always end with; the first counts. `ls -l` asks for SELinux's, of each
# file anew as long as it is only missing. Where SELinux is on, the kernel answers for it itself.
CONSTANT_ERRNOS: Final = (
    (b"security.selinux", Unsupported.errno),
    (b"security.", XattrMissing.errno),
    (b"system.", Unsupported.errno),
)
NAME_BYTES_MAX: Final = 100  # of RADOS (osd_max_attr_name_len)
VALUE_BYTES_MAX: Final = 65536  # of Linux (XATTR_SIZE_MAX, xattr(7))
# Kept by the lock class, by libradosstriper and by our `posix`: readable by name, like any other.
UNLISTED_PREFIXES: Final = (b"lock.", b"striper.", posix.XATTR)


class XattrCalls:
    """getxattr(2) and its family, on inodes."""

    def __init__(
        self, store: Store, view: ViewConfig, pools: Pools, objects: Objects, cache: PageCache
    ) -> None:
        self._store = store
        self._view = view
        self._pools = pools
        self._objects = objects
        self._cache = cache

    async def get(self, node: Node, name: bytes) -> bytes:
        """Raises: XattrMissing; XattrTooBig; Unsupported; StaleFile."""
        key = rados_name(name)
        if key is None:
            return self._constant_value(node, name)
        values = await self._values(node)
        if key not in values:
            raise XattrMissing(f"xattr {name!r}")
        if len(values[key]) > VALUE_BYTES_MAX:
            raise XattrTooBig(f"xattr {name!r} of {len(values[key])} bytes")
        return values[key]

    async def names(self, node: Node) -> list[bytes]:
        return listed_names(await self._values(node))

    async def set(
        self, node: Node, name: bytes, value: bytes | None, notice: Notice | None = None
    ) -> None:
        """Set or (None) remove: acknowledged on return, but for a file that RADOS does not
        have yet, or that is being rewritten: then with the content.

        Raises: XattrMissing; XattrNameInvalid; XattrSpaceExceeded; Unsupported; ReadOnly;
        AccessDenied; StaleFile.
        """
        key = rados_name(name)
        if key is None or not isinstance(node, FileNode):
            raise Unsupported(f"xattr {name!r} cannot be changed")
        if key == posix.XATTR and self._view.has_posix:
            raise Unsupported(f"xattr {name!r} is chmod's and chown's")
        if value is not None and len(key) > NAME_BYTES_MAX:
            raise XattrNameInvalid(f"xattr name of {len(key)} bytes")
        file = node.file
        if file.is_unlinked:
            raise StaleFile(f"{file.key.name!r} was removed")
        await self._pools.check_writable(file.key[:2])
        if value is None and key not in await self._values(node):
            raise XattrMissing(f"xattr {name!r}")
        if file.stages_xattrs:
            self._cache.stage_xattr(file, key, value)
        else:
            await self._objects.in_turn(file, lambda: self._store_one(node, key, value, notice))

    async def _store_one(
        self, node: FileNode, key: bytes, value: bytes | None, notice: Notice | None
    ) -> None:
        """An operation of the sequencer. The mtime stays: content did not change."""
        file = node.file
        if file.stages_xattrs:  # truncated or renamed over while we waited
            self._cache.stage_xattr(file, key, value)
            return
        step = RemoveXattr(key) if value is None else SetXattr(key, value)
        try:
            await self._objects.change_beside(file, (step,), mtime_s=None, notice=notice)
        except ObjectNotFound as failure:
            node.note_gone()
            raise StaleFile(f"{file.key.name!r} was removed") from failure

    async def _values(self, node: Node) -> Mapping[bytes, bytes]:
        if not isinstance(node, FileNode):
            return {}
        file = node.file
        if file.is_new or file.is_unlinked:
            return with_staged({}, file)
        try:
            stored = await self._store.get_xattrs(file.key)
        except ObjectNotFound as failure:
            node.note_gone()
            raise StaleFile(f"{file.key.name!r} was removed") from failure
        return with_staged(stored.values, file)

    def _constant_value(self, node: Node, name: bytes) -> bytes:
        if name.startswith(VIRTUAL_PREFIX):
            value = self._virtual_values(node).get(name)
            if value is not None:
                return value
        number = next((n for beginning, n in CONSTANT_ERRNOS if name.startswith(beginning)), None)
        if name.startswith(VIRTUAL_PREFIX) or number == XattrMissing.errno:
            raise XattrMissing(f"xattr {name!r}")
        raise Unsupported(f"xattr {name!r}")

    def _mount_values(self) -> dict[bytes, bytes]:
        unstored = (self._cache.held_bytes, len(self._cache.dirty_files))
        return {
            PID_XATTR.encode(): b"%d" % os.getpid(),
            UNSTORED_XATTR.encode(): b"%d bytes in %d files" % unstored,
        }

    def _virtual_values(self, node: Node) -> dict[bytes, bytes]:
        values = self._mount_values() if node.ino == ROOT_INO else {}
        if isinstance(node, FileNode):
            key = node.file.key
            values[b"ceph.pool"] = self._pools.name_of(key.pool_id)
            values[b"ceph.namespace"] = key.namespace
            values[b"ceph.object"] = key.name
            values[b"ceph.version"] = b"%d" % node.file.base.version
        return values


def rados_name(name: bytes) -> bytes | None:
    """The RADOS xattr of a `user.` name; None for a name that is answered from constants."""
    return name[len(USER_PREFIX) :] if name.startswith(USER_PREFIX) else None


def with_staged(stored: Mapping[bytes, bytes], file: CachedFile) -> dict[bytes, bytes]:
    """The xattrs as programs here see them: those that wait for a flush on top."""
    values = dict(stored)
    for name, value in file.staged_xattrs.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    return values


def listed_names(names: Iterable[bytes]) -> list[bytes]:
    """What listxattr(2) shows of RADOS's names."""
    return [USER_PREFIX + name for name in names if not name.startswith(UNLISTED_PREFIXES)]
