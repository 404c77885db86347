"""Checks before anything is started: can something be mounted here at all?

Every answer is one plain line that says what to do. A mount that a killed process left behind
is cleaned away.
"""

import errno
import os
import stat

from radosmount.errors import MountError
from radosmount.fuse import mounts

FUSE_DEVICE = "/dev/fuse"


def prepare_mountpoint(mountpoint: str) -> None:
    """Raises: MountError."""
    if mountpoint.startswith("/dev/fd/"):
        raise MountError(
            "drop_privileges is not possible: mount.fuse3 would mount without nosuid, nodev and "
            "default_permissions"
        )
    check_fuse_device()
    if not stat.S_ISDIR(mode_of(mountpoint)):
        raise MountError(f"{mountpoint} is not a directory: give a directory to mount on")
    mount = mounts.find_mount(mounts.canonical(mountpoint))
    if mount is not None and mount.fstype != "autofs":  # autofs waits for exactly this mount
        raise MountError(
            f"{mountpoint} is busy: {mount.source} ({mount.fstype}) is mounted there; "
            "unmount it first, or choose another directory"
        )


def check_outside(option: str, path: str | None, mountpoint: str) -> None:
    """What the mount's own process writes must not go through the mount: it would wait for itself.

    Raises: MountError.
    """
    root = mounts.canonical(mountpoint)
    if path is not None and os.path.commonpath((root, mounts.canonical(path))) == root:
        raise MountError(f"{option}={path} is below the mount point: name a place outside of it")


def check_fuse_device() -> None:
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        raise MountError(
            f"{FUSE_DEVICE} is missing: load the kernel module (modprobe fuse), "
            "or give the container --device /dev/fuse"
        ) from None
    except OSError as failure:
        raise MountError(
            f"cannot open {FUSE_DEVICE}: {failure.strerror}; mount as root, or as a user who may"
        ) from failure


def mode_of(mountpoint: str) -> int:
    """The mode of what is there, once stale mounts are gone."""
    while True:
        try:
            mode = os.stat(mountpoint).st_mode
            _ask_daemon(mountpoint)
            return mode
        except FileNotFoundError:
            raise MountError(
                f"mount point {mountpoint} does not exist: make it with mkdir"
            ) from None
        except OSError as failure:
            if failure.errno != errno.ENOTCONN:
                raise MountError(f"mount point {mountpoint}: {failure.strerror}") from failure
        remove_stale_mount(mountpoint)


def _ask_daemon(mountpoint: str) -> None:
    """The kernel answers stat(2) of a dead mount for as long as it keeps its attributes; but not
    statfs(2). On anything but FUSE that would do more than ask (autofs mounts). Raises: OSError."""
    mount = mounts.find_mount(mounts.canonical(mountpoint))
    if mount is not None and mount.fstype.startswith("fuse"):
        os.statvfs(mountpoint)


def remove_stale_mount(mountpoint: str) -> None:
    """Detach the top mount, whose process has died ("Transport endpoint is not connected")."""
    path = mounts.canonical(mountpoint)
    mount = mounts.find_mount(path)
    if mount is None or not mount.fstype.startswith("fuse"):
        raise MountError(f"mount point {mountpoint}: Transport endpoint is not connected")
    try:
        mounts.detach(path, is_lazy=True)
    except OSError as failure:
        raise MountError(
            f"{mountpoint} holds a dead mount that cannot be removed: "
            f"{failure.strerror or failure}; try umount -l {mountpoint} as root"
        ) from failure
