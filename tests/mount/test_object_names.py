"""Objects of every name, through the mount."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from radosmount.lab import Lab
from radosmount.store.names import FLAT
from tests.mount.mounting import mounted
from tests.mount.raw_objects import raw_pool

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


def test_every_name_shows(root: Path, pool: str, lab: Lab) -> None:
    """Every object of a pool shows under exactly one name, whatever bytes its name has, and is
    reachable through it ([names.md](names.md))."""
    with raw_pool(lab.conf_path, pool) as objects:
        for name in NAMES:
            objects.put(name, content_of(name))
        objects.put(b"keyed", b"with a key", locator=b"key")
    directory = os.fsencode(root / pool)
    contents = []
    for path in paths_below(directory):
        with open(path, "rb") as opened:
            contents.append(opened.read())
    assert sorted(contents) == sorted([*map(content_of, NAMES), b"with a key"])
    for name in NAMES:
        path = os.path.join(directory, *FLAT.path_of(name, b""))
        with open(path, "rb") as opened:
            assert opened.read() == content_of(name)
    listed = subprocess.run(["ls", "-lR", directory], capture_output=True, timeout=60)
    assert (listed.returncode, listed.stderr) == (0, b"")
    found = subprocess.run(["find", directory, "-type", "f"], capture_output=True, timeout=60)
    assert found.stderr == b""


def test_every_name_can_be_written(lab: Lab, pool: str) -> None:
    """Every object of a pool shows under exactly one name, whatever bytes its name has: also
    one that was made here, changed, renamed and removed."""
    with mounted(lab, f"ceph:{pool}") as mount:
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


def test_a_large_pool_is_listed(lab: Lab, root: Path, pool: str) -> None:
    """ls shows each of 3,000 objects once."""
    with raw_pool(lab.conf_path, pool) as objects:
        for number in range(3000):
            objects.put(b"%d" % number, b"")
    listed = os.listdir(root / pool)
    assert sorted(map(int, listed)) == list(range(3000))
    lines = subprocess.run(["ls", "-l", root / pool], capture_output=True, timeout=60)
    assert lines.stdout.count(b"\n") == 3001
    assert not lines.stderr
