"""The spool: a local directory for what the store did not take, one file each.

`Spool` writes with blocking calls; `Spooler` has it do so in threads, and says in the log what
became of the bytes. How a file is written back is restore.py's.
"""

import contextlib
import errno
import logging
import os
import stat
from collections.abc import Callable
from typing import Final

import trio

from radosmount.cache.spoolfile import NUMBER_MAX, SUFFIX, Spooled, encode, file_name

log = logging.getLogger(__name__)

PART_SUFFIX: Final = ".part"
# Disks gain little by more, and each has a file's bytes in memory.
THREAD_COUNT_MAX: Final = 2


class Spool:
    """`directory` is made when it is first needed."""

    def __init__(self, directory: str, cluster: str, restore_command: str) -> None:
        """`restore_command`: how to begin the command that writes a file back."""
        self.cluster = cluster
        self.restore_command = restore_command
        self._directory = directory

    def write(self, spooled: Spooled) -> str:
        """Return the path of a new file, which a crash of the host no longer takes away.

        Raises: OSError.
        """
        _make_directory(self._directory)
        directory_fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            name = _write_new(spooled, directory_fd)
            os.fsync(directory_fd)
        finally:
            os.close(directory_fd)
        return os.path.join(self._directory, name)

    def complaint(self) -> str | None:
        """What keeps files from being written there, or shows them to others, as far as it can be
        seen now; one line. Makes nothing."""
        found = self._directory
        while not os.path.exists(found):
            found = os.path.dirname(found)
        if not os.path.isdir(found):
            return f"{found} is no directory"
        if not os.access(found, os.W_OK | os.X_OK, effective_ids=True):
            return f"{found} cannot be written"
        return _owner_complaint(os.stat(found)) if found == self._directory else None


def _owner_complaint(directory: os.stat_result) -> str | None:
    """It is not made fit by us: it may be for other things, too, as /var/tmp is."""
    if directory.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {directory.st_uid}"
    if directory.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(directory.st_mode)
        return f"others may look into it, its mode is {mode:o}: make it 700, or name another"
    return None


def _make_directory(path: str) -> None:
    """With all above it, for nobody else to read, and for good."""
    if os.path.isdir(path):
        return
    parent = os.path.dirname(path)
    _make_directory(parent)
    with contextlib.suppress(FileExistsError):  # by another mount, at the same time
        os.mkdir(path, 0o700)
    _sync_directory(parent)


def _sync_directory(path: str) -> None:
    directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)


def _write_new(spooled: Spooled, directory_fd: int) -> str:
    """Whoever has made the `.part` of a name may take that name, if it is free."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for number in range(1, NUMBER_MAX + 1):
        name = file_name(spooled, number)
        part = name.removesuffix(SUFFIX) + PART_SUFFIX
        try:
            part_fd = os.open(part, flags, 0o600, dir_fd=directory_fd)
        except FileExistsError:
            continue
        try:
            if _write_part(spooled, part_fd, name, directory_fd):
                os.rename(part, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
                return name
        except BaseException:
            os.unlink(part, dir_fd=directory_fd)
            raise
        os.unlink(part, dir_fd=directory_fd)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _write_part(spooled: Spooled, part_fd: int, name: str, directory_fd: int) -> bool:
    """Return False where `name` is taken."""
    with open(part_fd, "wb") as part:
        with contextlib.suppress(FileNotFoundError):
            os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
            return False
        part.writelines(encode(spooled))
        part.flush()
        os.fsync(part_fd)
    return True


def rewrite(path: str, spooled: Spooled) -> None:
    """Replace a spool file: after a crash there is the old one or the new one. Raises: OSError."""
    part = path + PART_SUFFIX
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    part_fd = os.open(part, flags, 0o600)  # a crash may have left one
    try:
        with open(part_fd, "wb") as file:
            file.writelines(encode(spooled))
            file.flush()
            os.fsync(part_fd)
        os.rename(part, path)
    except BaseException:
        os.unlink(part)
        raise
    _sync_directory(os.path.dirname(path) or ".")


class Spooler:
    """Spools in the background. What goes wrong is said in the log, and raised nowhere.

    `nursery` may be cancelled: what was begun is ended all the same.
    """

    def __init__(self, spool: Spool, nursery: trio.Nursery) -> None:
        self._spool = spool
        self._nursery = nursery
        self._limiter = trio.CapacityLimiter(THREAD_COUNT_MAX)
        self._under_way_count = 0
        self._is_idle = trio.Event()

    @property
    def cluster(self) -> str:
        return self._spool.cluster

    def start(self, spooled: Spooled, done: Callable[[], None]) -> None:
        """`spooled` must not change any more. `done()` is called when memory may forget it,
        whatever came of it."""
        if not self._under_way_count:
            self._is_idle = trio.Event()
        self._under_way_count += 1
        self._nursery.start_soon(self._run, spooled, done)

    async def settle(self) -> None:
        """Wait until all that was begun has ended."""
        while self._under_way_count:
            await self._is_idle.wait()

    async def _run(self, spooled: Spooled, done: Callable[[], None]) -> None:
        try:
            with trio.CancelScope(shield=True):
                await self._write(spooled)
        finally:
            done()
            self._under_way_count -= 1
            if not self._under_way_count:
                self._is_idle.set()

    async def _write(self, spooled: Spooled) -> None:
        name, error = spooled.key.name, spooled.error
        byte_count = spooled.flight.changes.extents.byte_count
        try:
            path = await trio.to_thread.run_sync(self._spool.write, spooled, limiter=self._limiter)
        except Exception as failure:
            reason = failure if isinstance(failure, OSError) else repr(failure)
            text = "%r: %d bytes could not be stored and are lost: %s; nor spooled: %s"
            log.error(text, name, byte_count, error, reason)
            return
        text = "%r: %d bytes could not be stored, and are kept in the spool: %s; to write them: %s"
        log.error(text, name, byte_count, error, f"{self._spool.restore_command} {path}")
