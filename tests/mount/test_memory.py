"""What the process takes at most, when more is written than the cache holds and the OSD hangs."""

import contextlib
import hashlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import rados

from radosmount.config import MIB
from radosmount.lab import Lab
from tests.mount.mounting import Mount, mounted
from tests.support.cluster import temporary_lab

POOL: Final = "pool"
WRITER_COUNT: Final = 8
FILES_A_WRITER: Final = 5
FILE_MIB: Final = 100
CACHE_MIB: Final = 64
MEMORY_BYTES_MAX: Final = (CACHE_MIB + 120) * MIB
STOPPED_AFTER_FILES: Final = 12
STOPPED_S: Final = 10

# Writes its files one after the other, and says a line for each once it is closed.
WRITER: Final = f"""
import sys
from pathlib import Path
from tests.mount.test_memory import pieces
for name in sys.argv[2:]:
    with (Path(sys.argv[1]) / name).open("wb", buffering=0) as file:
        for piece in pieces(name):
            assert file.write(piece) == {MIB}
    print(name, flush=True)
"""


def pieces(name: str) -> Iterator[bytes]:
    """The content of a file, a MiB at a time: no two are alike, and none costs much."""
    common = random.Random(name).randbytes(MIB - 8)
    for index in range(FILE_MIB):
        yield index.to_bytes(8, "big") + common


def stored_digest(objects: rados.Ioctx, name: str) -> str:
    digest = hashlib.sha256()
    for offset in range(0, FILE_MIB * MIB, 4 * MIB):
        digest.update(objects.read(name, 4 * MIB, offset))
    return digest.hexdigest()


def expected_digest(name: str) -> str:
    digest = hashlib.sha256()
    for piece in pieces(name):
        digest.update(piece)
    return digest.hexdigest()


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    with temporary_lab(pools=(POOL,)) as lab:
        yield lab


@pytest.fixture
def writers() -> Iterator[list["subprocess.Popen[str]"]]:
    """Those that are in this list do not outlive the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def start_writer(directory: Path, names: list[str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WRITER, str(directory), *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def forget_peak(mount: Mount) -> None:
    """Let VmHWM begin anew (proc(5), clear_refs)."""
    assert mount.process is not None
    Path(f"/proc/{mount.process.pid}/clear_refs").write_text("5")


def peak_bytes(mount: Mount) -> int:
    """The most that was ever resident since `forget_peak`."""
    assert mount.process is not None
    status = Path(f"/proc/{mount.process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


@contextlib.contextmanager
def stopped_osd(lab: Lab) -> Iterator[None]:
    """Its placement groups may stay laggy until they peer anew."""
    lab.signal("osd.0", signal.SIGSTOP)
    try:
        yield
    finally:
        lab.signal("osd.0", signal.SIGCONT)
        lab.ceph("osd", "down", "0")


def test_memory_is_bounded(own_lab: Lab, writers: list["subprocess.Popen[str]"]) -> None:
    """8 writers, each five files of 100 MiB, through `cache_size=64MiB`, with an OSD stopped for
    10 s in the middle, stay under cache_size + 120 MiB resident, and end well."""
    names = [[f"{w}-{f}" for f in range(FILES_A_WRITER)] for w in range(WRITER_COUNT)]
    with mounted(own_lab, f"ceph:{POOL}", f"cache_size={CACHE_MIB}M") as mount:
        forget_peak(mount)
        began_s = time.monotonic()
        writers += [start_writer(mount.path, files) for files in names]
        # The writers advance alike: together they have closed enough when each closed its share.
        for writer in writers * (STOPPED_AFTER_FILES // WRITER_COUNT):
            assert writer.stdout is not None
            assert writer.stdout.readline(), "a writer failed"
        with stopped_osd(own_lab):
            time.sleep(STOPPED_S)
        assert [writer.wait(100) for writer in writers] == [0] * WRITER_COUNT
        took_s = time.monotonic() - began_s
        peak = peak_bytes(mount)
    print(f"written in {took_s:.1f} s, at most {peak / MIB:.0f} MiB resident")
    cluster = rados.Rados(name="client.admin", conffile=str(own_lab.conf_path))
    cluster.connect(timeout=30)
    with contextlib.closing(cluster.open_ioctx(POOL)) as objects:
        for files in names:
            for name in files:
                assert objects.stat(name)[0] == FILE_MIB * MIB
        for name in (names[0][0], names[3][1], names[5][2], names[7][4]):
            assert stored_digest(objects, name) == expected_digest(name)
    cluster.shutdown()
    assert peak < MEMORY_BYTES_MAX
