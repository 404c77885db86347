"""What is mounted where, and taking it away: mountinfo, umount2(2) and fusermount3(1).

Needs no pyfuse3: `radosmount umount` uses it too. Reads /proc/self/mountinfo and never stats a
mount point, because the answer may have to come from the very process that asks.
"""

import ctypes
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Final

MNT_DETACH: Final = 2  # umount(2): away from the tree now, gone with its last user
# mount(8) starts its helpers without a PATH.
SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class MountInfo:
    """One line of proc(5)'s mountinfo. `device` is `major:minor`."""

    device: str
    mountpoint: str
    fstype: str
    source: str


def parse_mountinfo(text: str) -> list[MountInfo]:
    """All mounts, in the order in which they were made."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, (fstype, source) = before.split(), after.split()[:2]
        mounts.append(MountInfo(fields[2], unescape(fields[4]), fstype, unescape(source)))
    return mounts


def unescape(text: str) -> str:
    r"""mountinfo writes space, tab, newline and backslash as `\040` and so on."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def find_mount(mountpoint: str) -> MountInfo | None:
    """The topmost mount at exactly this path (see `canonical`), or None."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        mounts = parse_mountinfo(file.read())
    return next((mount for mount in reversed(mounts) if mount.mountpoint == mountpoint), None)


def canonical(path: str) -> str:
    """`path` as mountinfo names it. Looks at the file system, so not under our own mount."""
    return os.path.realpath(path)


def detach(mountpoint: str, *, is_lazy: bool) -> None:
    """Unmount, as root or by fusermount3. Raises: OSError, with EBUSY while it is in use."""
    if os.geteuid() != 0:
        return detach_as_user(mountpoint, is_lazy=is_lazy)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(mountpoint), MNT_DETACH if is_lazy else 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), mountpoint)


def detach_as_user(mountpoint: str, *, is_lazy: bool) -> None:
    program = shutil.which("fusermount3", path=SEARCH_PATH)
    if program is None:
        raise OSError("fusermount3 is missing: install the package fuse3")
    command = [program, "-u", *(["-z"] if is_lazy else []), "--", mountpoint]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise OSError(result.stderr.strip().removeprefix("fusermount3: "))
