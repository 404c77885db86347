"""A dead OSD, a full pool, and bugs: errnos in time, and a mount that lives on."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from pathlib import Path
from typing import Final

import pytest
import rados

from radosmount.config import MIB, UNSTORED_XATTR
from radosmount.lab import Lab
from tests.mount.calls import can, eventually, fails, opened
from tests.mount.impatient_mount import STALL_LIMIT_S
from tests.mount.mounting import mounted
from tests.mount.restoring import restore_words, restored
from tests.support.cluster import temporary_lab

POOL: Final = "pool"
BROKEN: Final = Path(__file__).parent / "broken_mount.py"
IMPATIENT: Final = Path(__file__).parent / "impatient_mount.py"
TIMEOUT_S: Final = 3
# Once given up: `close_margin`, until what hangs is left behind, the spool, and then the exit.
END_S: Final = 15
SLACK_S: Final = 7  # for a check that comes round, and a busy machine
# Lines of a mount's log that a fault is the reason for.
NO_ANSWER: Final = r"(Connection timed out \(errno 110\)|nothing was acknowledged for \d+ s)$"
NO_ROOM: Final = r"(Disk quota exceeded \(errno 122\)|its pool is full)$"
GIVEN_UP: Final = (
    "ERROR: giving up on RADOS, which",
    "ERROR: not written to RADOS: ",
    "ERROR: b'.*bytes could not be stored, and are kept in the spool: ",
    "ERROR: leaving without an orderly end$",
)
FULL: Final = (errno.EDQUOT, errno.ENOSPC)


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    with temporary_lab(pools=(POOL,)) as lab:
        yield lab


@pytest.fixture(scope="module")
def client(own_lab: Lab) -> Iterator[rados.Ioctx]:
    """The pool without a mount, and without a fork, whose child would close what is open."""
    cluster = rados.Rados(name="client.admin", conffile=str(own_lab.conf_path))
    cluster.connect(timeout=30)
    with contextlib.closing(cluster.open_ioctx(POOL)) as ioctx:
        yield ioctx
    cluster.shutdown()


@pytest.fixture
def faulty(own_lab: Lab) -> Iterator[Lab]:
    """A cluster whose OSD may be stopped; it goes on afterwards."""
    yield own_lab
    own_lab.signal("osd.0", signal.SIGCONT)


def resume(lab: Lab, serves: Callable[[], bool]) -> None:
    """Let a stopped OSD go on. Its placement groups may stay laggy until they peer anew, which
    Ceph does not do for an OSD that was never missed."""
    lab.signal("osd.0", signal.SIGCONT)
    try:
        eventually(serves, within_s=10)
    except AssertionError:
        lab.ceph("osd", "down", "0")
        eventually(serves)


def test_reads_of_a_dead_osd(faulty: Lab, name: str) -> None:
    """A dead OSD gives ETIMEDOUT once nothing was acknowledged for `timeout`; the file works
    again when the OSD does."""
    content = os.urandom(8 * MIB)
    with mounted(faulty, f"ceph:{POOL}", f"timeout={TIMEOUT_S}", expected=[NO_ANSWER]) as mount:
        path = mount.path / name
        path.write_bytes(content)
        with opened(path, os.O_RDONLY) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            faulty.signal("osd.0", signal.SIGSTOP)
            for call in (lambda: os.pread(descriptor, 100, 5 * MIB), lambda: os.stat(path)):
                began_s = time.monotonic()
                with fails(errno.ETIMEDOUT):
                    call()
                assert TIMEOUT_S - 1 < time.monotonic() - began_s < TIMEOUT_S + SLACK_S
            os.statvfs(mount.path)
            resume(faulty, lambda: can(lambda: os.pread(descriptor, 100, 0)))
            assert os.pread(descriptor, len(content), 0) == content
        assert path.read_bytes() == content


def test_writes_to_a_dead_osd(faulty: Lab, client: rados.Ioctx, name: str) -> None:
    """A transient failure (ETIMEDOUT, ENOSPC, EDQUOT) keeps the bytes and tries again. Each
    handle that is open at the failure hears of it, at fsync or close."""
    with mounted(faulty, f"ceph:{POOL}", f"timeout={TIMEOUT_S}", expected=[NO_ANSWER]) as mount:
        path = mount.path / name
        path.write_bytes(b"begin")
        with (
            opened(path, os.O_WRONLY) as first,
            opened(path, os.O_WRONLY) as second,
            opened(path, os.O_RDONLY) as reader,
        ):
            faulty.signal("osd.0", signal.SIGSTOP)
            os.write(first, b"BEGIN")
            began_s = time.monotonic()
            with fails(errno.ETIMEDOUT):
                os.fsync(first)
            assert time.monotonic() - began_s < TIMEOUT_S + SLACK_S
            assert os.pread(reader, 5, 0) == b"BEGIN"
            eventually(lambda: "is not stored" in mount.log())
            faulty.signal("osd.0", signal.SIGCONT)
            eventually(lambda: client.read(name) == b"BEGIN")
            with fails(errno.ETIMEDOUT):
                os.fsync(second)
            os.fsync(second)
            can(lambda: os.fsync(first))  # has heard that it took too long, not yet of its end
            os.fsync(first)


READS: Final = """\
import pathlib, sys
print("ready", flush=True)
input()
pathlib.Path(sys.argv[1]).read_bytes()
"""
STORES: Final = """\
import os, sys
descriptor = os.open(sys.argv[1], os.O_WRONLY)
os.write(descriptor, b"stored later")
print("ready", flush=True)
input()
os.fsync(descriptor)
"""


@pytest.mark.parametrize("program", [READS, STORES], ids=["reads", "stores"])
def test_a_killed_program_is_gone(
    faulty: Lab, client: rados.Ioctx, name: str, program: str
) -> None:
    """A program that is killed while RADOS does not answer it is gone once that request has ended,
    and the close of what it has written: each after `timeout` at the latest, and after 3 s where a
    flush of the same file has waited for so long before."""
    client.write_full(name, b"content")
    with mounted(faulty, f"ceph:{POOL}", f"timeout={TIMEOUT_S}", expected=[NO_ANSWER]) as mount:
        path = mount.path / name
        child = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdin
        assert child.stdout
        assert child.stdout.readline() == "ready\n"
        faulty.signal("osd.0", signal.SIGSTOP)
        child.stdin.write("\n")
        child.stdin.flush()
        wchan = Path(f"/proc/{child.pid}/wchan")
        eventually(lambda: wchan.read_text() == "request_wait_answer")
        child.kill()
        child.communicate(timeout=2 * TIMEOUT_S + SLACK_S)
        assert child.returncode == -signal.SIGKILL
        resume(faulty, lambda: can(path.read_bytes))


def test_df_without_a_monitor(own_lab: Lab, client: rados.Ioctx, name: str) -> None:
    """df waits at most two seconds for a monitor, and shows the last known values where none
    answers. Objects are read and written without one."""
    with mounted(own_lab, f"ceph:{POOL}") as mount:
        (mount.path / name).write_bytes(bytes(MIB))
        eventually(lambda: space(mount.path)[0] > 0)
        own_lab.signal("mon.a", signal.SIGSTOP)
        try:
            known = space(mount.path)
            for _ in range(3):
                began_s = time.monotonic()
                assert space(mount.path) == known
                assert time.monotonic() - began_s < 2 + SLACK_S
                time.sleep(1)  # until the values are old enough to be asked for again
            (mount.path / f"{name}-2").write_bytes(b"content")
            assert (mount.path / name).stat().st_size == MIB
        finally:
            own_lab.signal("mon.a", signal.SIGCONT)
        assert client.read(f"{name}-2") == b"content"


def space(path: Path) -> tuple[int, int]:
    """Used and free, in units."""
    found = os.statvfs(path)
    return found.f_blocks - found.f_bfree, found.f_bavail


def test_umount_tells_what_is_left(faulty: Lab, client: rados.Ioctx, name: str) -> None:
    """While RADOS does not take it, `radosmount umount` waits, and says how much it waits for."""
    with mounted(faulty, f"ceph:{POOL}", "flush=lazy,dirty_expire=3600") as mount:
        (mount.path / name).write_bytes(bytes(123_456))
        faulty.signal("osd.0", signal.SIGSTOP)
        words = [sys.executable, "-m", "radosmount", "umount", str(mount.path)]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as unmounting:
            assert unmounting.stderr is not None
            line = unmounting.stderr.readline()
            faulty.signal("osd.0", signal.SIGCONT)
        assert line == "radosmount: writing back: 123456 bytes in 1 files left\n"
        assert unmounting.returncode == 0
    assert client.read(name, 200_000) == bytes(123_456)


def test_an_end_with_a_dead_osd(faulty: Lab, client: rados.Ioctx, name: str) -> None:
    """What RADOS has not taken when the mount ends (a second signal gives up on it) goes to the
    spool, too, also what was under way."""
    contents = {f"{name}-{number}": os.urandom(number * 700_000) for number in range(5)}
    options = f"timeout={TIMEOUT_S},flush=lazy,dirty_expire=3600"
    with mounted(faulty, f"ceph:{POOL}", options, expected=[NO_ANSWER, *GIVEN_UP]) as mount:
        for path, content in contents.items():
            (mount.path / path).write_bytes(content)
        client.write_full(f"{name}-3", b"theirs")
        faulty.signal("osd.0", signal.SIGSTOP)
        process = mount.process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        eventually(lambda: "cannot write back yet" in mount.log())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        faulty.signal("osd.0", signal.SIGCONT)
        words = restore_words(mount)
        files = list((mount.folder / "spool").iterdir())
        assert len(files) == len(contents)
        for file in files:
            assert f"radosmount restore -c {faulty.conf_path} {file}" in mount.log()
        [refused] = [file for file in files if f"{name}-3-" in file.name]
        result = restored(*words[:-1], *map(str, files))
        assert result.returncode == 32
        assert result.stderr.startswith(f"radosmount: {refused}: does not overwrite")
        assert result.stderr.count("\n") == 1
        assert restored(*words[:-1], "--force", str(refused)).returncode == 0
        for path, content in contents.items():
            assert client.read(path, len(content) + 1) == content


def test_a_second_signal_with_a_dead_cluster(faulty: Lab, client: rados.Ioctx, name: str) -> None:
    """Neither an OSD nor a monitor that is dead keeps the process, however long `timeout` is."""
    options = "timeout=60,flush=lazy,dirty_expire=3600"
    with mounted(faulty, f"ceph:{POOL}", options, expected=GIVEN_UP) as mount:
        (mount.path / name).write_bytes(b"content")
        process = mount.process
        assert process is not None
        for daemon in ("osd.0", "mon.a"):
            faulty.signal(daemon, signal.SIGSTOP)
        try:
            process.send_signal(signal.SIGTERM)
            eventually(lambda: "got SIGTERM" in mount.log())
            process.send_signal(signal.SIGTERM)
            assert process.wait(END_S) == 1
        finally:
            for daemon in ("osd.0", "mon.a"):
                faulty.signal(daemon, signal.SIGCONT)
        assert restored(*restore_words(mount)).returncode == 0
        assert client.read(name) == b"content"


def test_the_whole_cluster_restarts() -> None:
    """What was written is stored when all daemons are back that were down at once, and nobody is
    taken for another client."""
    before, written = os.urandom(2 * MIB), os.urandom(MIB)
    wanted = {
        "new": written,
        "overwritten": written + before[MIB:],
        "appended": before + written,
    }
    options = f"timeout={TIMEOUT_S},flush=lazy,dirty_expire=1"
    with temporary_lab(pools=(POOL,)) as lab:
        for file in ("overwritten", "appended"):
            lab.rados("-p", POOL, "put", file, "-", input=before)
        with mounted(lab, f"ceph:{POOL}", options, expected=[NO_ANSWER]) as mount:
            with contextlib.ExitStack() as files:
                flags = {file: os.O_WRONLY | os.O_CREAT for file in wanted}
                flags["appended"] |= os.O_APPEND
                descriptors = [
                    files.enter_context(opened(mount.path / file, flags[file])) for file in wanted
                ]
                lab.signal("osd.0", signal.SIGSTOP)
                for descriptor in descriptors:
                    os.write(descriptor, written)
            for daemon in ("osd.0", "mgr.x", "mon.a"):
                lab.stop_daemon(daemon, signal.SIGKILL)
            eventually(lambda: mount.log().count("is not stored") >= len(wanted))
            for daemon in ("mon.a", "mgr.x", "osd.0"):
                lab.start_daemon(daemon)
            eventually(lambda: os.getxattr(mount.path, UNSTORED_XATTR) == b"0 bytes in 0 files", 90)
            assert "another client" not in mount.log()
            for file, content in wanted.items():
                assert lab.rados("-p", POOL, "get", file, "-") == content


def test_an_end_without_answers(faulty: Lab, client: rados.Ioctx, name: str) -> None:
    """A stop by a signal or by systemd gives up by itself once RADOS has acknowledged nothing for
    90 s: what is left goes to the spool."""
    content = os.urandom(3 * MIB)
    options = f"timeout={TIMEOUT_S},flush=lazy,dirty_expire=3600"
    expected = [NO_ANSWER, *GIVEN_UP]
    program = (str(IMPATIENT),)
    with mounted(faulty, f"ceph:{POOL}", options, expected=expected, program=program) as mount:
        (mount.path / name).write_bytes(content)
        faulty.signal("osd.0", signal.SIGSTOP)
        began_s = time.monotonic()
        assert mount.stop(signal.SIGTERM) == 1
        took_s = time.monotonic() - began_s
        assert STALL_LIMIT_S <= took_s < STALL_LIMIT_S + END_S
        faulty.signal("osd.0", signal.SIGCONT)
        assert f"acknowledged nothing for {STALL_LIMIT_S} s" in mount.log()
        assert len(list((mount.folder / "spool").iterdir())) == 1
        assert restored(*restore_words(mount)).returncode == 0
        assert client.read(name, len(content) + 1) == content


def test_a_writer_waits_for_room(faulty: Lab, name: str) -> None:
    """Bytes that are written and not stored yet take at most `cache_size`: a writer waits for
    room."""
    content = os.urandom(32 * MIB)
    written = 0

    def write(descriptor: int) -> None:
        nonlocal written
        while written < len(content):
            written += os.write(descriptor, content[written : written + MIB])

    options = "timeout=60,cache_size=8M"
    with mounted(faulty, f"ceph:{POOL}", options) as mount:
        path = mount.path / name
        with opened(path, os.O_WRONLY | os.O_CREAT) as descriptor, ThreadPoolExecutor(1) as writer:
            faulty.signal("osd.0", signal.SIGSTOP)
            writing = writer.submit(write, descriptor)
            with pytest.raises(NotYet):
                writing.result(3)
            assert written <= 8 * MIB
            faulty.signal("osd.0", signal.SIGCONT)
            writing.result(60)
        assert path.read_bytes() == content


def test_a_full_pool(faulty: Lab, name: str) -> None:
    """A transient failure (ETIMEDOUT, ENOSPC, EDQUOT) keeps the bytes and tries again. Each
    handle that is open at the failure hears of it, at fsync or close."""
    pool = f"{name}-full"
    faulty.create_pool(pool)
    faulty.ceph("osd", "pool", "set-quota", pool, "max_objects", "3")
    with mounted(faulty, f"ceph:{pool}", expected=[NO_ROOM]) as mount:
        for number in range(4):
            (mount.path / str(number)).write_bytes(b"content")
        with opened(mount.path / "0", os.O_RDWR) as descriptor:

            def store_more() -> None:
                os.lseek(descriptor, 0, os.SEEK_END)
                os.write(descriptor, bytes(10_000))
                os.fsync(descriptor)

            eventually(lambda: not can(store_more, errno.EDQUOT, errno.ENOSPC), 60)
            size = os.fstat(descriptor).st_size
            assert int(faulty.rados("-p", pool, "stat", "0").split()[-1]) < size
            (mount.path / "1").unlink()
            faulty.ceph("osd", "pool", "set-quota", pool, "max_objects", "0")
            eventually(lambda: can(lambda: os.fsync(descriptor), errno.EDQUOT, errno.ENOSPC))
            assert len(faulty.rados("-p", pool, "get", "0", "-")) == size


def test_closed_files_of_a_full_pool(faulty: Lab, name: str) -> None:
    """Files that keep failing, and all that would grow in a full pool, leave half of that to
    others: what would be more is refused by write. So other pools, and what is overwritten in
    place, go on at once; the rest is stored when there is room."""
    full, other = f"{name}-full", f"{name}-other"
    for pool in (full, other):
        faulty.create_pool(pool)
    options = "cache_size=64M"  # of which 32 MiB for what is written and not stored
    with mounted(faulty, "ceph:", options, expected=[NO_ROOM]) as mount:
        in_place = mount.path / full / "in-place"
        in_place.write_bytes(bytes(MIB))
        faulty.ceph("osd", "pool", "set-quota", full, "max_objects", "1")
        growing = in_place.with_name("growing")
        eventually(lambda: not can(lambda: append_byte(growing), *FULL), 60)
        written = [in_place.with_name(f"kept-{number}") for number in range(40)]
        held = [path for path in written if write_and_close(path)]
        assert len(held) == 15  # and the one that grew
        began_s = time.monotonic()
        for number in range(8):
            (mount.path / other / f"{number}").write_bytes(bytes([number]) * MIB)
            with in_place.open("r+b") as file:
                file.write(bytes([number]) * MIB)
        assert time.monotonic() - began_s < SLACK_S
        assert faulty.rados("-p", full, "get", "in-place", "-") == bytes([7]) * MIB
        faulty.ceph("osd", "pool", "set-quota", full, "max_objects", "0")
        names = {b"growing", b"in-place", *(os.fsencode(path.name) for path in held)}
        eventually(lambda: names <= set(faulty.rados("-p", full, "ls").split()), 60)
        assert write_and_close(written[-1])


def append_byte(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"1")


def write_and_close(path: Path) -> bool:
    """1 MiB into a new file. Returns whether write(2) took it; close may fail for want of room."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        return can(lambda: os.write(descriptor, bytes(MIB)), *FULL)
    finally:
        can(lambda: os.close(descriptor), *FULL)


def test_bugs_become_eio(lab: Lab) -> None:
    """One bad request never ends the mount, nor does the removal of a pool."""
    expected = ["ZeroDivisionError", "unexpected", "Traceback", "ERROR", "WARNING"]
    with mounted(lab, "ceph:", program=(str(BROKEN),), expected=expected) as mount:
        directory = mount.path / "pool"
        with fails(errno.EIO):
            (directory / "stat-bug").stat()
        with fails(errno.EIO):
            (directory / "read-bug").read_bytes()
        with fails(errno.EIO):
            os.listxattr(directory / "xattr-bug")
        with fails(errno.EIO):
            (directory / "apply-bug").write_bytes(b"new")
        with fails(errno.EIO):
            (directory / "apply-bug").unlink()
        assert mount.log().count("ZeroDivisionError") >= 5
        (directory / "good").write_bytes(b"lives on")
        assert (directory / "good").read_bytes() == b"lives on"
        assert mount.process is not None
        assert mount.process.poll() is None
