"""Objects of every name, through the mount."""

import os
import pathlib
import subprocess
from collections.abc import Iterator

import pytest

from radosmount.config import NamesMode
from radosmount.lab import Lab
from radosmount.store.names import EMPTY_COMPONENT, FLAT, TREE, Path
from radosmount.vfs.directories import INODE_COUNT
from tests.mount.mounting import mounted
from tests.mount.raw_objects import raw_pool

LARGE_POOL = "large-directory"
NAMES = [
    b"a b",
    b"-rf",
    b"\xff\xfe",
    b"x\ny",
    b".",
    b"..",
    b"d/",
    b"a//b",
    b"y" * 255,
    b"z" * 256,
    b"w" * 2000,
    b"/",
    b"%2F",
    b"100%",
    b".snap",
    b".profile",
    b"caf\xc3\xa9",
    b"deep/er/name",
    b"v" * 253 + b"%~",
    b"\x01\x7f",
]


def paths_below(directory: bytes) -> Iterator[bytes]:
    for entry in os.scandir(directory):
        if entry.is_dir():
            yield from paths_below(entry.path)
        else:
            yield entry.path


def content_of(name: bytes) -> bytes:
    return b"the content of " + name


@pytest.mark.parametrize("mode", NamesMode)
def test_every_name_shows(pool: str, lab: Lab, mode: NamesMode) -> None:
    """Every object of a pool shows under exactly one name, whatever bytes its name has, and is
    reachable through it ([names.md](names.md)); what marks a directory shows as that."""
    with raw_pool(lab.conf_path, pool) as objects:
        for name in NAMES:
            objects.put(name, content_of(name))
        objects.put(b"keyed", b"with a key", locator=b"key")
    paths = {name: path_in(mode, name) for name in NAMES}
    with mounted(lab, f"ceph:{pool}", f"names={mode.value}") as mount:
        directory = os.fsencode(mount.path)
        listed = {path: read(path) for path in paths_below(directory)}
        markers = {name for name, path in paths.items() if is_marker(mode, path)}
        shown = [name for name in NAMES if name not in markers]
        assert sorted(listed.values()) == sorted([*map(content_of, shown), b"with a key"])
        for name, path in paths.items():
            assert read(os.path.join(directory, *path)) == content_of(name)
        for name in markers:
            assert os.path.isdir(os.path.join(directory, *paths[name][:-1]))
        commands = [[b"ls", b"-lR", directory], [b"find", directory, b"-type", b"f"]]
        for command in commands:
            result = subprocess.run(command, capture_output=True, timeout=60)
            assert (result.returncode, result.stderr) == (0, b"")


def path_in(mode: NamesMode, name: bytes) -> Path:
    if mode is NamesMode.FLAT:
        return FLAT.path_of(name, b"")
    has_below = any(other.startswith(name + b"/") for other in NAMES)
    return TREE.path_of(name, b"", beside_directory=has_below)


def is_marker(mode: NamesMode, path: Path) -> bool:
    return mode is NamesMode.TREE and len(path) > 1 and path[-1] == EMPTY_COMPONENT


def read(path: bytes) -> bytes:
    with open(path, "rb") as opened:
        return opened.read()


def test_every_name_can_be_written(lab: Lab, pool: str) -> None:
    """Every object of a pool shows under exactly one name, whatever bytes its name has: also
    one that was made here, changed, renamed and removed."""
    with mounted(lab, f"ceph:{pool}", "names=flat") as mount:
        for name in NAMES:
            path = os.path.join(os.fsencode(mount.path), *FLAT.path_of(name, b""))
            other = os.path.join(os.fsencode(mount.path), b"other")
            with open(path, "wb") as opened:
                opened.write(b"first")
            with open(path, "ab") as opened:
                opened.write(b" and second")
            assert list(paths_below(os.fsencode(mount.path))) == [path]
            os.rename(path, other)
            assert os.listdir(mount.path) == ["other"]
            os.rename(other, path)
            with open(path, "rb") as opened:
                assert opened.read() == b"first and second"
            os.unlink(path)
            assert list(paths_below(os.fsencode(mount.path))) == []


@pytest.fixture(scope="module")
def large_pool(lab: Lab) -> str:
    """One with a very large directory."""
    lab.create_pool(LARGE_POOL)
    with raw_pool(lab.conf_path, LARGE_POOL) as objects:
        for number in range(INODE_COUNT + 500):
            objects.put(b"many/%d" % number, b"x" * (number % 7))
    return LARGE_POOL


@pytest.mark.parametrize("options", ["", "stock_fuse"])
def test_names_without_inodes(options: str, lab: Lab, large_pool: str) -> None:
    """Of a very large directory most names are listed bare: each once, by its own number, and
    the kernel looks up what is asked for."""
    with mounted(lab, f"ceph:{large_pool}", options) as mount:
        with os.scandir(mount.path / "many") as entries:
            found = {int(entry.name): (entry.inode(), entry.is_file()) for entry in entries}
        assert sorted(found) == list(range(INODE_COUNT + 500))
        assert all(is_file for _, is_file in found.values())
        for number in [*list(found)[:10], *list(found)[-100:]]:
            status = (mount.path / "many" / str(number)).stat()
            assert (status.st_ino, status.st_size) == (found[number][0], number % 7)


def test_a_large_pool_is_listed(lab: Lab, root: pathlib.Path, pool: str) -> None:
    """ls shows each of 3,000 objects once."""
    with raw_pool(lab.conf_path, pool) as objects:
        for number in range(3000):
            objects.put(b"%d" % number, b"")
    listed = os.listdir(root / pool)
    assert sorted(map(int, listed)) == list(range(3000))
    lines = subprocess.run(["ls", "-l", root / pool], capture_output=True, timeout=60)
    assert lines.stdout.count(b"\n") == 3001
    assert not lines.stderr
