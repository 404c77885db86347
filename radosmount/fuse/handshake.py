"""Mounting by our own hand, so that INIT can agree to what libfuse does not ask for.

libfuse 3.14 answers the kernel's INIT without PARALLEL_DIROPS (look-ups and listings of one
directory then wait for each other, and a pool is one directory), without HANDLE_KILLPRIV_V2
(then every write(2) is preceded by a GETXATTR of security.capability), and with 12 requests in
the background at most. libfuse accepts a mounted descriptor by the name /dev/fd/N: it gets one
end of a socket there, with the kernel's INIT in it; its reply is amended on the way to the
kernel, and the true descriptor takes the socket's place.

    kernel ──INIT──> true fd ── copied ──> socket ──> libfuse
    kernel <── amended reply ── true fd <── socket <── libfuse,   then dup2(true fd, N)

Needs CAP_SYS_ADMIN; without it the mount is libfuse's own (fusermount3), and merely slower.
Source: fuse_kernel.h of Linux (struct fuse_init_in, fuse_init_out).
"""

import ctypes
import logging
import os
import socket
import stat
import struct
from typing import Final

log = logging.getLogger(__name__)

PARALLEL_DIROPS: Final = 1 << 18
# We keep no capabilities and, without `posix`, no setuid bits (the mount is nosuid): there are
# none to clear. With it the kernel does, by SETATTR.
HANDLE_KILLPRIV: Final = 1 << 19
HANDLE_KILLPRIV_V2: Final = 1 << 28
MAX_BACKGROUND: Final = 64
CONGESTION_THRESHOLD: Final = 48

# mount(2). Every other option of ours goes to the kernel as text.
_MS_FLAGS: Final = {
    "ro": 1,
    "nosuid": 2,
    "nodev": 4,
    "noexec": 8,
    "sync": 16,
    "dirsync": 128,
    "noatime": 1024,
    "nodiratime": 2048,
}
_KERNEL_OPTIONS: Final = frozenset({"default_permissions", "allow_other"})
_REQUEST_BYTES_MAX: Final = (1 << 20) + 4096
# Behind fuse_in_header (40) or fuse_out_header (16): major, minor, max_readahead, flags.
_IN_FLAGS_OFFSET: Final = 40 + 12
_OUT_FLAGS_OFFSET: Final = 16 + 12
_OUT_BACKGROUND_OFFSET: Final = _OUT_FLAGS_OFFSET + 4  # max_background, congestion_threshold


class Handshake:
    """A mount that the kernel knows and libfuse has not answered yet.

    `mountpoint_for_libfuse` is what to give to `pyfuse3.init`. `finish` must be called when
    libfuse has written its reply to INIT, before anything else is read; `abandon` instead of
    it, if it never comes to that.
    """

    def __init__(self, device_fd: int, has_setuid: bool) -> None:
        self._device_fd = device_fd
        self._has_setuid = has_setuid
        self._init = os.read(device_fd, _REQUEST_BYTES_MAX)
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.send(self._init)
        self.libfuse_fd = theirs.detach()

    @property
    def mountpoint_for_libfuse(self) -> str:
        return f"/dev/fd/{self.libfuse_fd}"

    def finish(self) -> None:
        """Pass libfuse's reply on, amended, and give libfuse the kernel's descriptor."""
        reply = self._ours.recv(_REQUEST_BYTES_MAX)
        os.write(self._device_fd, amended(self._init, reply, self._has_setuid))
        os.dup2(self._device_fd, self.libfuse_fd, inheritable=False)
        self._close()

    def abandon(self) -> None:
        os.close(self.libfuse_fd)
        self._close()

    def _close(self) -> None:
        self._ours.close()
        os.close(self._device_fd)


def begin(mountpoint: str, options: frozenset[str], has_setuid: bool) -> Handshake | None:
    """Mount as `options` (pyfuse3's) say; None where that is not allowed to us, or where a
    helper of libfuse's is asked for. `has_setuid`: files may have setuid bits.

    Raises: OSError where libfuse could not mount either.
    """
    if "auto_unmount" in options:
        return None
    try:
        device_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as failure:
        log.debug("no /dev/fuse for us: %s", failure)
        return None
    try:
        _mount(device_fd, mountpoint, options)
        return Handshake(device_fd, has_setuid)
    except PermissionError as failure:
        log.debug("mount(2) is not for us, so libfuse mounts: %s", failure)
        os.close(device_fd)
        return None
    except BaseException:
        os.close(device_fd)
        raise


def amended(init: bytes, reply: bytes, has_setuid: bool) -> bytes:
    """libfuse's reply to INIT, with what the kernel offers and libfuse does not take."""
    (offered,) = struct.unpack_from("=I", init, _IN_FLAGS_OFFSET)
    (agreed,) = struct.unpack_from("=I", reply, _OUT_FLAGS_OFFSET)
    amended_reply = bytearray(reply)
    agreed |= offered & (PARALLEL_DIROPS | HANDLE_KILLPRIV_V2)
    if has_setuid:
        agreed &= ~(HANDLE_KILLPRIV | HANDLE_KILLPRIV_V2)
    struct.pack_into("=I", amended_reply, _OUT_FLAGS_OFFSET, agreed)
    struct.pack_into(
        "=HH", amended_reply, _OUT_BACKGROUND_OFFSET, MAX_BACKGROUND, CONGESTION_THRESHOLD
    )
    return bytes(amended_reply)


def _mount(device_fd: int, mountpoint: str, options: frozenset[str]) -> None:
    values = dict(option.split("=", 1) for option in options if "=" in option)
    flags = sum(_MS_FLAGS.get(option, 0) for option in options)
    rootmode = stat.S_IFMT(os.stat(mountpoint).st_mode)
    words = [
        f"fd={device_fd},rootmode={rootmode:o},user_id={os.geteuid()},group_id={os.getegid()}",
        *sorted(options & _KERNEL_OPTIONS),
    ]
    libc = ctypes.CDLL(None, use_errno=True)
    code = libc.mount(
        os.fsencode(values.get("fsname", "radosmount")),
        os.fsencode(mountpoint),
        f"fuse.{values.get('subtype', 'radosmount')}".encode(),
        ctypes.c_ulong(flags),
        os.fsencode(",".join(words)),
    )
    if code != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)
