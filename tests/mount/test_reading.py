"""Reading through the kernel, as it is where the kernel's read-ahead is not ours to raise."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import rados

from radosmount.config import KIB, MIB
from radosmount.fuse.mounts import find_mount
from radosmount.lab import Lab
from tests.mount.mounting import Mount, mounted
from tests.support.cluster import SHARED_POOL

SIZE: Final = 32 * MIB
BEGINS: Final = "reading ahead from"


@pytest.fixture(scope="module")
def shallow(lab: Lab) -> Iterator[Mount]:
    """A mount that tells in its log what is read ahead; the kernel reads 128 KiB ahead of it, as
    of a mount by anyone but root."""
    with mounted(lab, f"ceph:{SHARED_POOL}", words=("--debug",)) as mount:
        info = find_mount(str(mount.path))
        assert info is not None
        Path(f"/sys/class/bdi/{info.device}/read_ahead_kb").write_text("128\n")
        yield mount


@pytest.fixture
def content(name: str, objects: rados.Ioctx) -> bytes:
    """Of an object `name` that no one has read yet."""
    data = random.Random(name).randbytes(SIZE)
    objects.write_full(name, data)
    return data


def test_a_file_is_read_ahead(shallow: Mount, name: str, content: bytes) -> None:
    """Sequential reads are fetched ahead where the kernel does not do so itself."""
    assert (shallow.path / name).read_bytes() == content
    assert re.search(f"{name}.*{BEGINS}", shallow.log())


def test_reads_here_and_there(shallow: Mount, name: str, content: bytes) -> None:
    """Reads and seeks, some after what was fetched ahead, find the content."""
    dice = random.Random(1)
    with (shallow.path / name).open("rb", buffering=0) as file:
        for _ in range(60):
            offset = file.seek(dice.randrange(SIZE))
            for _ in range(dice.randrange(12)):
                part = file.read(dice.randrange(1, 300 * KIB))
                assert part == content[offset : offset + len(part)]
                offset += len(part)


def test_a_file_that_changes_is_not_read_ahead_stale(
    shallow: Mount, name: str, content: bytes, objects: rados.Ioctx
) -> None:
    """An open sees the new content, whatever another handle has fetched of the old one."""
    with (shallow.path / name).open("rb", buffering=0) as file:
        for _ in range(20):
            file.read(128 * KIB)
        objects.write_full(name, content[::-1])
        assert (shallow.path / name).read_bytes() == content[::-1]


def test_the_kernel_is_left_to_itself(
    all_pools: Mount, lab: Lab, name: str, content: bytes
) -> None:
    """Where the kernel reads ahead we do not do it once more."""
    with mounted(lab, f"ceph:{SHARED_POOL}", words=("--debug",)) as mount:
        assert (mount.path / name).read_bytes() == content
        assert BEGINS not in mount.log()
