"""The way past a mount: what puts a row's files there before, and says afterwards what is there.

Never through the mount that is measured: what is seen here, any other client would see.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Protocol

THREAD_COUNT: Final = 8


class Past(Protocol):
    """One folder (a pool, a directory, a bucket), by other means than the mount measured."""

    def names(self) -> list[str]: ...

    def read(self, name: str) -> bytes: ...

    def xattr(self, name: str, key: str) -> bytes: ...

    def put(self, files: Mapping[str, bytes]) -> None: ...

    def clear(self) -> None:
        """Remove every file."""
        ...


class VerifyError(Exception):
    """The bytes past the mount are not those that the row has written."""


class DirectoryPast:
    """A directory of a second, fresh mount."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def names(self) -> list[str]:
        return [path.name for path in self._directory.iterdir()]

    def read(self, name: str) -> bytes:
        return (self._directory / name).read_bytes()

    def xattr(self, name: str, key: str) -> bytes:
        return os.getxattr(self._directory / name, f"user.{key}")

    def put(self, files: Mapping[str, bytes]) -> None:
        with ThreadPoolExecutor(THREAD_COUNT) as threads:
            list(threads.map(self._put_one, files.items()))

    def _put_one(self, file: tuple[str, bytes]) -> None:
        (self._directory / file[0]).write_bytes(file[1])

    def clear(self) -> None:
        with ThreadPoolExecutor(THREAD_COUNT) as threads:
            list(threads.map(Path.unlink, self._directory.iterdir()))


def expect_files(past: Past, files: Mapping[str, bytes]) -> None:
    """Raises: VerifyError unless the folder holds exactly `files`."""
    names = set(past.names())
    if names != files.keys():
        missing, extra = sorted(files.keys() - names), sorted(names - files.keys())
        raise VerifyError(f"missing {missing[:3]} ({len(missing)}), extra {extra[:3]}")
    for name, data in files.items():
        if past.read(name) != data:
            raise VerifyError(f"{name} holds other bytes than were written")
