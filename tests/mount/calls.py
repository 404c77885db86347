"""Small words for what the tests of a mount do again and again."""

import contextlib
import errno
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rados


@contextlib.contextmanager
def fails(number: int) -> Iterator[None]:
    with pytest.raises(OSError) as failure:  # noqa: PT011 - the errno is checked
        yield
    found = failure.value.errno or 0
    assert errno.errorcode[found] == errno.errorcode[number]


@contextlib.contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags, 0o666)
    try:
        yield descriptor
    finally:
        try:
            os.close(descriptor)
        except OSError as failure:
            if failure.errno != errno.EBADF:  # some tests close by themselves
                raise


def can(call: Callable[[], object], *refusals: int) -> bool:
    """Whether a call works; no other errors than these (ETIMEDOUT) are possible."""
    try:
        call()
    except OSError as failure:
        if failure.errno not in (refusals or (errno.ETIMEDOUT,)):
            raise
        return False
    return True


def eventually(is_so: Callable[[], bool], within_s: float = 30) -> None:
    """Poll what no event tells."""
    deadline_s = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline_s, f"not within {within_s} s"
        time.sleep(0.01)


def exists(objects: rados.Ioctx, name: str) -> bool:
    try:
        objects.stat(name)
    except rados.ObjectNotFound:
        return False
    return True


def object_of(objects: rados.Ioctx, path: Path) -> bytes:
    size, _ = objects.stat(path.name)
    return objects.read(path.name, size + 1)


def run(*words: object, cwd: Path | None = None) -> str:
    """A program's output. It succeeds, and complains of nothing."""
    result = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, cwd=cwd, timeout=100
    )
    assert (result.returncode, result.stderr) == (0, ""), f"{words}: {result}"
    return result.stdout
