"""What is in RADOS when the process ends, however it does; and -o sync, flush=lazy, cache_size."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
import rados

from radosmount.config import MIB
from radosmount.fuse.mounts import find_mount
from radosmount.lab import Lab
from tests.mount.calls import eventually, exists, opened
from tests.mount.mounting import Mount, mounted
from tests.support.cluster import SHARED_POOL

SOURCE: Final = f"ceph:{SHARED_POOL}"
READ_BYTES: Final = 64 * MIB


def keep_writing(directory: Path, name: str) -> None:
    """Rewrite one file and append to another until the mount dies under it."""
    try:
        for number in range(1_000_000):
            (directory / f"{name}-rewritten").write_bytes(bytes([65 + number % 26]) * 300_000)
            with (directory / f"{name}-unsynced").open("ab") as opened_file:
                opened_file.write(b"x" * 100_000)
                opened_file.flush()
    except OSError:
        pass


def test_kill_9(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """`kill -9` loses at most what no fsync or close had acknowledged, and never damages what
    had been. The next mount on the same point needs no cleaning. Tried 20 times."""
    expected: dict[str, bytes] = {}
    with mounted(lab, SOURCE) as mount:
        objects.write_full(f"{name}-rewritten", b"A" * 300_000)
        for number in range(20):
            with ThreadPoolExecutor(1) as background:
                background.submit(keep_writing, mount.path, name)
                closed, synced = f"{name}-{number}-closed", f"{name}-{number}-synced"
                expected[closed], expected[synced] = os.urandom(number * 50_000), os.urandom(9999)
                (mount.path / closed).write_bytes(expected[closed])
                descriptor = os.open(mount.path / synced, os.O_WRONLY | os.O_CREAT)
                os.write(descriptor, expected[synced])
                os.fsync(descriptor)
                mount.kill()
                with pytest.raises(OSError, match=r"not connected|abort"):
                    os.close(descriptor)
            rewritten = objects.read(f"{name}-rewritten", READ_BYTES)
            assert len(rewritten) == 300_000
            assert len(set(rewritten)) == 1
            mount.start(lab, SOURCE)
        for path, content in expected.items():
            assert objects.read(path, len(content) + 1) == content
            assert (mount.path / path).read_bytes() == content


def test_kill_9_during_a_rename(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """A crash in the middle of a rename leaves one or both names, each whole, never neither."""
    content = os.urandom(16 * MIB)
    with mounted(lab, SOURCE) as mount:
        for number in range(8):
            old, new = f"{name}-{number}-old", f"{name}-{number}-new"
            objects.write_full(old, content)
            command = ["mv", str(mount.path / old), str(mount.path / new)]
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as mover:
                time.sleep(number * 0.02)  # at another moment each time
                mount.kill()
                mover.wait(60)
            names = tuple(path for path in (old, new) if exists(objects, path))
            assert names
            for path in names:
                assert objects.read(path, READ_BYTES) == content
                objects.remove_object(path)
            mount.start(lab, SOURCE)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "fusermount3 -u", "umount", "radosmount"])
def test_an_end_while_dirty(end: str, lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """`radosmount umount`, plain umount(8), SIGTERM and SIGINT lose nothing: the process ends
    when all is in RADOS, or says in its log what is not."""
    contents = {f"{name}-{number}": os.urandom(number * 100_000) for number in range(20)}
    with mounted(lab, SOURCE, "flush=lazy,dirty_expire=3600") as mount:
        for path, content in contents.items():
            (mount.path / path).write_bytes(content)
        assert not exists(objects, f"{name}-1")
        commands = {
            "fusermount3 -u": ["fusermount3", "-u"],
            "umount": ["umount"],
            "radosmount": [sys.executable, "-m", "radosmount", "umount"],
        }
        if end in commands:
            subprocess.run([*commands[end], mount.path], check=True, timeout=60)
            assert mount.process is not None
            code = mount.process.wait(60)
        else:
            code = mount.stop(signal.Signals[end])
        assert code == 0
        assert not find_mount(str(mount.path))
        for path, content in contents.items():
            assert objects.read(path, len(content) + 1) == content


def test_a_signal_with_an_open_file(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """`radosmount umount`, plain umount(8), SIGTERM and SIGINT lose nothing: the process ends
    when all is in RADOS, or says in its log what is not. Also of a file that is still open."""
    with mounted(lab, SOURCE) as mount:
        descriptor = os.open(mount.path / name, os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"content")
        assert mount.stop(signal.SIGTERM) == 0
        with pytest.raises(OSError, match=r"not connected|abort"):
            os.close(descriptor)
        assert objects.read(name) == b"content"


@pytest.mark.parametrize("options", ["sync", "flush=sync"])
def test_sync(options: str, lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """With `-o sync` every write is synchronous: when it returns, RADOS has the bytes."""
    with mounted(lab, SOURCE, options) as mount:
        with opened(mount.path / name, os.O_WRONLY | os.O_CREAT) as descriptor:
            for number in range(1, 11):
                os.write(descriptor, b"piece")
                assert objects.read(name, 1000) == b"piece" * number
            os.pwrite(descriptor, b"P", 0)
            assert objects.read(name, 1) == b"P"
        subprocess.run(["cp", sys.executable, mount.path / f"{name}-copy"], check=True)
        assert objects.read(f"{name}-copy", READ_BYTES) == Path(sys.executable).read_bytes()


def test_lazy(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """With `-o flush=lazy` close does not wait: what was written goes out some seconds after
    `dirty_expire`, as on a local disk. fsync still waits."""
    with mounted(lab, SOURCE, "flush=lazy,dirty_expire=1") as mount:
        closed_s = time.monotonic()
        (mount.path / name).write_bytes(b"content")
        assert not exists(objects, name)
        eventually(lambda: exists(objects, name))
        assert 0.9 < time.monotonic() - closed_s < 10
        assert objects.read(name) == b"content"
        with opened(mount.path / f"{name}-synced", os.O_WRONLY | os.O_CREAT) as descriptor:
            os.write(descriptor, b"content")
            os.fsync(descriptor)
            assert objects.read(f"{name}-synced") == b"content"
        (mount.path / name).write_bytes(b"other")
        (mount.path / name).unlink()
        (mount.path / f"{name}-moved").write_bytes(b"moved")
        os.rename(mount.path / f"{name}-moved", mount.path / f"{name}-to")
        assert objects.read(f"{name}-to") == b"moved"
        assert not exists(objects, name)


def memory_bytes(mount: Mount) -> int:
    """The most that the process ever had (VmHWM)."""
    assert mount.process is not None
    status = Path(f"/proc/{mount.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def test_a_small_cache(lab: Lab, name: str, objects: rados.Ioctx, tmp_path: Path) -> None:
    """Big files, and many at once, pass through a cache of 8 MiB; memory stays bounded."""
    source = tmp_path / "source"
    source.write_bytes(random.Random(1).randbytes(40 * MIB))
    with mounted(lab, SOURCE, "cache_size=8M") as mount:
        before = memory_bytes(mount)
        paths = [mount.path / f"{name}-{number}" for number in range(4)]
        copies = [subprocess.Popen(["cp", source, path]) for path in paths]
        assert [copy.wait(100) for copy in copies] == [0] * 4
        small = [mount.path / f"{name}-small-{number}" for number in range(40)]
        with ThreadPoolExecutor(16) as writers:
            list(writers.map(lambda path: path.write_bytes(source.read_bytes()[:MIB]), small))
        for path in paths:
            assert subprocess.run(["cmp", source, path], timeout=60).returncode == 0
            assert objects.stat(path.name)[0] == 40 * MIB
            path.unlink()
        for path in small:
            assert objects.read(path.name, READ_BYTES) == source.read_bytes()[:MIB]
        assert memory_bytes(mount) - before < 150 * MIB


def test_scattered_writes_survive_pressure(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """Random writes to a file far larger than the cache read back as written."""
    expected = bytearray(24 * MIB)
    dice = random.Random(2)
    with (
        mounted(lab, SOURCE, "cache_size=4M") as mount,
        opened(mount.path / name, os.O_RDWR | os.O_CREAT) as descriptor,
    ):
        for _ in range(400):
            offset, length = dice.randrange(23 * MIB), dice.randrange(1, 200_000)
            data = dice.randbytes(length)
            os.pwrite(descriptor, data, offset)
            expected[offset : offset + length] = data
        size = os.fstat(descriptor).st_size
        assert os.pread(descriptor, size, 0) == expected[:size]
        os.fsync(descriptor)
        assert objects.read(name, READ_BYTES) == expected[:size]


def test_streaming_beyond_atomic_max(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """A file above atomic_max begins to go out before its close."""
    content = os.urandom(24 * MIB)
    with mounted(lab, SOURCE, "atomic_max=4M") as mount:
        path = mount.path / name
        with opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
            os.write(descriptor, content[: 20 * MIB])
            eventually(lambda: exists(objects, name))
            os.write(descriptor, content[20 * MIB :])
        assert objects.read(name, READ_BYTES) == content


def test_threads_of_one_file(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """Threads that write, sync, truncate and read one file all end, and its bytes are whole."""
    with mounted(lab, SOURCE) as mount, ThreadPoolExecutor(5) as threads:
        path = mount.path / name
        path.write_bytes(b"")

        def work(number: int) -> None:
            with opened(path, os.O_RDWR) as descriptor:
                for index in range(40):
                    os.pwrite(descriptor, b"%08d" % number * 1000, number * 8000)
                    if index % 5 == number:
                        os.fsync(descriptor)
                    if index % 7 == number:
                        os.ftruncate(descriptor, 5 * 8000)
                    os.pread(descriptor, 40_000, 0)

        list(threads.map(work, range(5)))
        assert objects.read(name, 50_000) == b"".join(b"%08d" % n * 1000 for n in range(5))
