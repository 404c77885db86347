"""Serving requests from our own reading of /dev/fuse: compiled (_device.pyx), without libfuse.

    kernel ──> Device.next ──> Pump ──> a worker: Operations ──> Device.reply ──> kernel

What a request means is the same `Operations` as with pyfuse3; only the two ends differ. A worker is
a task, so that a handler may wait as any task may; the pump steps it (switching.py).

Needs the compiled modules, and a descriptor that is mounted (mounting.py); else pyfuse3 serves.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import pyfuse3
import trio

from radosmount import switching
from radosmount.errors import RadosmountError
from radosmount.fuse.encoders import NAME_BYTES_MAX, UNIT_BYTES, kept_s
from radosmount.fuse.operations import Operations, is_direct_io, may_replace_by
from radosmount.fuse.replies import errno_of, without_answers
from radosmount.store.interface import Notice
from radosmount.vfs.attributes import PREFERRED_IO_BYTES, AttributeChange, Attributes
from radosmount.vfs.directories import BareName
from radosmount.vfs.metadata import Creator
from radosmount.vfs.openfiles import OpenFile
from radosmount.vfs.usage import SpaceUsage
from radosmount.vfs.xattrs import CONSTANT_ERRNOS

if TYPE_CHECKING:
    from radosmount._switching import Pump

try:
    from radosmount.fuse import _device
except ImportError:
    _device = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

MAX_BACKGROUND: Final = 64
CONGESTION_THRESHOLD: Final = 48
# A lone caller on another core comes back with its next request before an idle core has been
# woken: looking for it that long halves its round trip, at no more CPU than the wake-up costs.
SPIN_S: Final = 30e-6
# How late a deadline of trio's may be noticed while there are requests all the time.
TURN_S: Final = 1e-3
WORKERS_AT_ONCE: Final = 16


def is_supported() -> bool:
    """Whether the modules are built and fit the trio that is there. Needs trio."""
    return _device is not None and switching.is_supported()


class DeviceEncoder:
    """Structures of <linux/fuse.h>, as `Device.reply` wants them."""

    has_bare = True

    def __init__(self, device: "_device.Device") -> None:
        self._device = device

    def entry(self, attributes: Attributes, name_timeout_s: float = 0.0) -> bytes:
        return _device.pack_entry(
            attributes.ino,
            attributes.mode,
            attributes.nlink,
            attributes.uid,
            attributes.gid,
            attributes.size,
            attributes.mtime_ns,
            attributes.valid_s,
            kept_s(attributes, name_timeout_s),
            PREFERRED_IO_BYTES,
        )

    def opened(self, opened: OpenFile, is_direct: bool) -> bytes:
        return _device.pack_open(opened.handle, opened.keeps_pages, is_direct, opened.has_flush)

    def created(self, opened: OpenFile, is_direct: bool, attributes: Attributes) -> bytes:
        return self.entry(attributes) + self.opened(opened, is_direct)

    def directory(self, handle: int) -> bytes:
        return _device.pack_open(handle, False, False, False)

    def space(self, usage: SpaceUsage) -> bytes:
        return _device.pack_statfs(
            usage.total_bytes // UNIT_BYTES,
            usage.available_bytes // UNIT_BYTES,
            usage.object_count,
            PREFERRED_IO_BYTES,
            UNIT_BYTES,
            NAME_BYTES_MAX,
        )

    def xattr_names(self, names: Sequence[bytes]) -> bytes:
        return b"".join(name + b"\0" for name in names)

    def add_entry(
        self, reply: "_device.Entries", name: bytes, entry: bytes, following: int
    ) -> bool:
        return reply.add(name, entry, following)

    def add_bare(self, reply: "_device.Entries", names: Iterable[BareName], index: int) -> None:
        add = reply.add_bare
        for name, number, type_bits in names:
            index += 1
            if not add(name, number, type_bits, index):
                return

    def forget_attributes(self, ino: int) -> None:
        with contextlib.suppress(FileNotFoundError):  # it has forgotten the inode by itself
            self._device.invalidate_inode(ino, attr_only=True)


Handler = Callable[..., Awaitable[Any]]


class Server:
    """Answers the requests of `device_fd`, a mounted /dev/fuse, which it owns.

    Raises: OSError where the kernel's INIT is none that we know.
    """

    def __init__(self, device_fd: int, operations: Operations, has_setuid: bool) -> None:
        self._device = _device.Device(device_fd, CONSTANT_ERRNOS)
        wanted = _device.WANTED | (0 if has_setuid else _device.KILLPRIV)
        self._device.answer_init(wanted, MAX_BACKGROUND, CONGESTION_THRESHOLD)
        self._encode = operations.encode = DeviceEncoder(self._device)
        self._operations = operations
        self._filesystem = operations.filesystem
        self._handlers = self._make_handlers()
        self._worker_count = 0
        self._worker_count_max = WORKERS_AT_ONCE
        self._nursery: trio.Nursery | None = None

    def invalidate_inode(self, ino: int) -> None:
        """May block; see `InvalidationThread`."""
        self._device.invalidate_inode(ino)

    async def serve(self, worker_count_max: int, on_ready: Callable[[], None]) -> None:
        """Until the mount is gone or `stop` is called, and what was read is answered."""
        self._worker_count_max = worker_count_max
        pump = switching.make_pump(self._device, SPIN_S, TURN_S)
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            with pump:
                switching.take_over()
                await pump.settle()
                self._add_workers(pump)
                on_ready()
                while pump.run():
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    def stop(self) -> None:
        self._device.end()

    def close(self) -> None:
        """After `serve` has ended. The number stays taken: a late notice must reach nobody."""
        self._device.end()
        nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nowhere, self._device.fileno(), inheritable=False)
        os.close(nowhere)

    def _add_workers(self, pump: "Pump") -> None:
        assert self._nursery is not None
        for _ in range(min(WORKERS_AT_ONCE, self._worker_count_max - self._worker_count)):
            self._worker_count += 1
            pump.worker_count += 1
            self._nursery.start_soon(self._work, pump)

    async def _work(self, pump: "Pump") -> None:
        device, handlers = self._device, self._handlers
        while True:
            request = await pump.request()
            if not pump.idle_count:
                self._add_workers(pump)
            try:
                value = await handlers[request.opcode](*request.arguments)
                if not (request.notice and request.notice.is_sent):
                    device.reply(request, value)
            except Exception as failure:  # not BaseException: trio.Cancelled must pass
                name = _device.OPCODES[request.opcode]
                device.fail(request, errno_of(failure, name, request.arguments))
            finally:
                if request.notice:
                    device.notice_count -= 1

    # Handlers: those of Operations, but where pyfuse3 does something before or after

    def _make_handlers(self) -> dict[int, Handler]:
        filesystem = self._filesystem
        ours: dict[str, Handler] = {
            "read": filesystem.read,
            "write": filesystem.write,
            "release": filesystem.release,
            "flush": self._flush,
            "fsync": self._fsync,
            "unlink": self._unlink,
            "create": self._create,
            "rename": self._rename,
            "setattr": self._setattr,
            "setxattr": self._setxattr,
            "access": self._access,
            "readdir": self._readdir,
        }
        return {
            opcode: ours.get(name) or without_answers(getattr(self._operations, name))
            for opcode, name in _device.OPCODES.items()
        }

    def _notice(self, request: "_device.Request", value: bytes = b"") -> Notice:
        """Of success, with what is returned then. Whoever asked hears of it from librados's own
        thread, and asks the next thing while we note what has changed."""
        notice = request.notice = Notice(self._device.fileno(), request.success(value))
        self._device.notice_count += 1
        return notice

    def _flush(self, handle: int, request: "_device.Request") -> Awaitable[None]:
        return self._filesystem.flush(handle, self._notice(request), request.pid)

    def _fsync(self, handle: int, request: "_device.Request") -> Awaitable[None]:
        return self._filesystem.sync(handle, self._notice(request), request.pid)

    async def _create(
        self, parent: int, name: bytes, mode: int, flags: int, request: "_device.Request"
    ) -> bytes | None:
        encode, is_direct = self._encode, is_direct_io(flags)

        def notice_of(opened: OpenFile, attributes: Attributes) -> Notice:
            return self._notice(request, encode.created(opened, is_direct, attributes))

        creator = Creator(stat.S_IMODE(mode), request.uid, request.gid)
        opened, attributes = await self._filesystem.create(parent, name, flags, creator, notice_of)
        if request.notice is not None and request.notice.is_sent:
            return None
        return encode.created(opened, is_direct, attributes)

    async def _rename(
        self,
        old_parent: int,
        old_name: bytes,
        new_parent: int,
        new_name: bytes,
        flags: int,
        request: "_device.Request",
    ) -> None:
        may_replace = may_replace_by(flags)
        notice = self._notice(request)
        await self._filesystem.rename(
            old_parent, old_name, new_parent, new_name, may_replace, notice, request.pid
        )

    def _unlink(self, parent: int, name: bytes, request: "_device.Request") -> Awaitable[None]:
        return self._filesystem.unlink(parent, name, self._notice(request), request.pid)

    async def _setattr(
        self,
        ino: int,
        change: "_device.Change",
        handle: int | None,
        request: "_device.Request",
    ) -> Any:
        wanted = AttributeChange(change.size, change.mtime_ns, change.mode, change.uid, change.gid)
        attributes = await self._filesystem.set_attributes(ino, wanted, handle, request.pid)
        return self._encode.entry(attributes)

    async def _setxattr(
        self, ino: int, name: bytes, value: bytes, flags: int, request: Any
    ) -> None:
        """setxattr(2)'s flags are checked before, as pyfuse3 does."""
        if flags & (os.XATTR_CREATE | os.XATTR_REPLACE):
            try:
                await self._filesystem.get_xattr(ino, name)
            except RadosmountError as failure:
                if failure.errno != errno.ENODATA or flags & os.XATTR_REPLACE:
                    raise
            else:
                if flags & os.XATTR_CREATE:
                    raise pyfuse3.FUSEError(errno.EEXIST)
        notice = self._notice(request)
        await self._filesystem.set_xattr(ino, name, value, notice, request.pid)

    def _access(self, ino: int, mask: int, request: "_device.Request") -> Awaitable[None]:
        return self._filesystem.check_access(ino, mask, request.pid)

    async def _readdir(self, handle: int, start: int, reply: "_device.Entries") -> bytearray:
        await self._operations.readdir(handle, start, reply)
        return reply.content()
