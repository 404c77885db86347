"""Mounting a /dev/fuse that we serve ourselves: by mount(2), or where that is not for us by
libfuse's helper fusermount3(1), which hands over the descriptor it has mounted.

Not the session on it: the first request, INIT, is the server's to answer. Options are pyfuse3's.
"""

import array
import ctypes
import logging
import os
import shutil
import socket
import stat
import subprocess
from typing import Final

from radosmount.fuse.mounts import SEARCH_PATH

log = logging.getLogger(__name__)

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
# A helper that stays, to unmount when we are gone: only libfuse knows how to speak with it.
_HELPERS_OPTION: Final = "auto_unmount"


def mount(mountpoint: str, options: frozenset[str]) -> int | None:
    """Mount, and return the device's descriptor; None where libfuse has to.

    Raises: OSError where libfuse could not mount either.
    """
    if _HELPERS_OPTION in options:
        return None
    try:
        device_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as failure:
        log.debug("no /dev/fuse for us: %s", failure)
        return mount_by_helper(mountpoint, options)
    try:
        _mount(device_fd, mountpoint, options)
    except PermissionError as failure:
        log.debug("mount(2) is not for us: %s", failure)
        os.close(device_fd)
        return mount_by_helper(mountpoint, options)
    except BaseException:
        os.close(device_fd)
        raise
    return device_fd


def mount_by_helper(mountpoint: str, options: frozenset[str]) -> int | None:
    """By fusermount3; None where it is missing or refuses, so that libfuse tells why.

    It sends the descriptor over the socket that _FUSE_COMMFD names (libfuse, util/fusermount.c).
    """
    program = shutil.which("fusermount3", path=SEARCH_PATH)
    if program is None:
        return None
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = ",".join(sorted(map(_escaped, options)))
        command = [program, "-o", words, "--", mountpoint]
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        result = subprocess.run(
            command,
            env=environment,
            pass_fds=[theirs.fileno()],
            capture_output=True,
            check=False,
        )
        if result.returncode != 0:
            log.debug("fusermount3: %s", result.stderr.decode(errors="replace").strip())
            return None
        return _received_fd(ours)


def _escaped(option: str) -> str:
    return option.replace("\\", r"\\").replace(",", r"\,")


def _received_fd(connection: socket.socket) -> int:
    """Raises: OSError."""
    numbers = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(numbers.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(data[: numbers.itemsize])
            os.set_inheritable(numbers[0], False)
            return numbers[0]
    raise OSError("fusermount3 has sent no descriptor")


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
