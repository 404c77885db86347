"""Several mounts, and other clients of the cluster, on one object."""

import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rados

from radosmount.config import MIB
from radosmount.lab import Lab
from radosmount.vfs.objects import LISTED_NAME_FRESHNESS_S
from tests.mount.calls import fails, object_of, opened
from tests.mount.mounting import Mount, mounted
from tests.support.cluster import SHARED_POOL


@pytest.fixture(scope="module")
def second(lab: Lab) -> Iterator[Path]:
    """The same directory, on another mount."""
    with mounted(lab, f"ceph:{SHARED_POOL}") as mount:
        yield mount.path


def test_growth_elsewhere(file: Path, objects: rados.Ioctx) -> None:
    """Between mounts, and with any other RADOS client, open sees what was acknowledged before
    it, in size and content (close-to-open). By stat, growth by another client, then raw open(2)
    and read(2): the new bytes, 100 times of 100."""
    expected = b"begin"
    objects.write_full(file.name, expected)
    for number in range(100):
        assert os.stat(file).st_size == len(expected)
        with opened(file, os.O_RDONLY) as descriptor:
            assert os.read(descriptor, 100_000) == expected
        expected += b" and %d" % number
        objects.write_full(file.name, expected)
        with opened(file, os.O_RDONLY) as descriptor:
            assert os.read(descriptor, 100_000) == expected


def test_the_same_size_elsewhere(file: Path, objects: rados.Ioctx) -> None:
    """A change that keeps size and second is seen by the next open, too."""
    objects.write_full(file.name, b"content 000")
    for number in range(100):
        with opened(file, os.O_RDONLY) as descriptor:
            assert os.read(descriptor, 100) == b"content %03d" % number
        objects.write_full(file.name, b"content %03d" % (number + 1))


def test_shrinking_elsewhere(file: Path, objects: rados.Ioctx) -> None:
    for size in (3 * MIB, 100, 2 * MIB, 0, 1):
        objects.write_full(file.name, os.urandom(size))
        assert os.stat(file).st_size == size
        with opened(file, os.O_RDONLY) as descriptor:
            assert os.pread(descriptor, 100, size) == b""
            assert os.fstat(descriptor).st_size == size
        assert file.read_bytes() == objects.read(file.name, size + 1)


def test_between_mounts(file: Path, second: Path) -> None:
    """Between mounts, and with any other RADOS client, open sees what was acknowledged before
    it, in size and content (close-to-open)."""
    other = second / file.name
    for number in range(50):
        writer, reader = (file, other) if number % 2 else (other, file)
        content = os.urandom(number * 1000)
        with opened(writer, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
            os.write(descriptor, content)
        with opened(reader, os.O_RDONLY) as descriptor:
            assert os.read(descriptor, 100_000) == content
        assert reader.stat().st_size == len(content)


def test_stat_asks(file: Path, second: Path, objects: rados.Ioctx) -> None:
    """stat asks RADOS: it tells of a change elsewhere at once; fstat of an open file within a
    second."""
    file.write_bytes(b"")
    with opened(file, os.O_RDONLY) as descriptor:
        for size in range(1, 20):
            objects.write_full(file.name, bytes(size))
            assert (second / file.name).stat().st_size == size
        objects.write_full(file.name, bytes(30))
        deadline_s = time.monotonic() + 1.5
        while os.fstat(descriptor).st_size != 30:
            assert time.monotonic() < deadline_s
    objects.remove_object(file.name)
    assert not file.exists()
    assert not (second / file.name).exists()


def test_stat_asks_behind_a_change_of_ones_own(file: Path, objects: rados.Ioctx) -> None:
    """stat asks RADOS: it tells of a change elsewhere at once. Also the thread that has just
    stored the file, by close or utimensat; 200 times of 200."""
    for number in range(200):
        file.write_bytes(b"ours")
        if number % 2:
            os.utime(file, (number, number))
        theirs = bytes(number + 5)
        objects.write_full(file.name, theirs)
        assert os.stat(file).st_size == len(theirs)
        assert file.read_bytes() == theirs


def test_stat_asks_behind_a_removal_of_ones_own(file: Path, objects: rados.Ioctx) -> None:
    """The same of a file that the thread has just removed or renamed; 200 times of 200."""
    renamed = file.with_name(file.name + "-renamed")
    for number in range(200):
        file.write_bytes(b"ours")
        if number % 2:
            file.unlink()
        else:
            file.rename(renamed)
        objects.write_full(file.name, b"theirs")
        assert os.stat(file).st_size == len(b"theirs")
        assert file.read_bytes() == b"theirs"


def test_growth_elsewhere_after_stat(file: Path, objects: rados.Ioctx) -> None:
    """What the kernel keeps of a stat does not hide what another client has appended since,
    from a raw open and read: neither of a name that was looked up nor of one that was listed."""
    objects.write_full(file.name, b"")
    for number in range(60):
        size = 7 * (number + 1)
        if number % 3 == 1:
            os.listdir(file.parent)
        assert os.stat(file).st_size == 7 * number
        if number % 3 == 2:
            os.listdir(file.parent)
        objects.append(file.name, b"%07d" % number)
        with opened(file, os.O_RDONLY) as descriptor:
            assert len(os.read(descriptor, 100_000)) == size


def test_growth_elsewhere_after_a_listing(lab: Lab, namespace: str, cluster: rados.Rados) -> None:
    """What `ls -l` was told with the names is kept for a second, but no open goes by it."""
    with (
        contextlib.closing(cluster.open_ioctx(SHARED_POOL)) as objects,
        contextlib.ExitStack() as stack,
    ):
        objects.set_namespace(namespace)
        for number in range(300):
            objects.write_full(f"file-{number:03}", b"before")
        mount = stack.enter_context(mounted(lab, f"ceph:{SHARED_POOL}/{namespace}"))
        for _ in range(20):
            with os.scandir(mount.path) as entries:
                listed = [(entry.path, entry.stat(follow_symlinks=False)) for entry in entries]
            assert len(listed) == 300
            for path, found in listed[-3:]:
                content = b"x" * (found.st_size + 1000)
                objects.write_full(os.path.basename(path), content)
                with opened(Path(path), os.O_RDONLY) as descriptor:
                    assert os.fstat(descriptor).st_size == len(content)
                    assert os.read(descriptor, 100_000) == content


@pytest.mark.parametrize("wait_s", [0, LISTED_NAME_FRESHNESS_S + 0.2])  # the kernel's own clock
@pytest.mark.parametrize(
    "change", [os.unlink, lambda path: os.setxattr(path, "user.y", b""), os.utime]
)
def test_gone_elsewhere_behind_a_change(
    change: Callable[[Path], object], wait_s: float, lab: Lab, namespace: str, cluster: rados.Rados
) -> None:
    """A listed name is kept for a second: whatever is done with it, but stat and access(2), asks
    RADOS, so that a file that is gone is ENOENT. A thread that has just removed a file, or changed
    its xattrs or attributes, finds the next name, once, as it was listed up to a minute ago: the
    same holds for that."""
    calls: list[Callable[[Path], object]] = [
        os.unlink,
        Path.read_bytes,
        lambda path: os.setxattr(path, "user.x", b""),
        lambda path: os.rename(path, f"{path}-renamed"),
        lambda path: os.truncate(path, 1),
        lambda path: os.utime(path, (1, 1)),
    ]
    with (
        contextlib.closing(cluster.open_ioctx(SHARED_POOL)) as objects,
        contextlib.ExitStack() as stack,
    ):
        objects.set_namespace(namespace)
        for number in range(len(calls)):
            objects.write_full(f"changed-{number}", b"content")
            objects.write_full(f"gone-{number}", b"content")
        mount = stack.enter_context(mounted(lab, f"ceph:{SHARED_POOL}/{namespace}"))
        assert len(os.listdir(mount.path)) == 2 * len(calls)
        time.sleep(wait_s)
        for number, call in enumerate(calls):
            objects.remove_object(f"gone-{number}")
            change(mount.path / f"changed-{number}")
            with fails(errno.ENOENT):
                call(mount.path / f"gone-{number}")


def test_growth_elsewhere_of_an_open_file(file: Path, objects: rados.Ioctx) -> None:
    """The same while another program keeps the file open, and asks for its size."""
    objects.write_full(file.name, b"")
    with opened(file, os.O_RDONLY) as other:
        for number in range(60):
            if number % 2:
                os.listdir(file.parent)
            os.fstat(other)
            objects.append(file.name, b"%07d" % number)
            with opened(file, os.O_RDONLY) as descriptor:
                assert len(os.read(descriptor, 100_000)) == 7 * (number + 1)


def test_exclusive_create(file: Path, second: Path, objects: rados.Ioctx) -> None:
    """`O_EXCL` is exclusive across all clients of the cluster: such a file exists, empty, from
    open on."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY

    def create(path: Path) -> bool:
        try:
            os.close(os.open(path, flags))
        except FileExistsError:
            return False
        assert objects.stat(path.name)[0] == 0
        return True

    with ThreadPoolExecutor(2) as both:
        for number in range(50):
            name = f"{file.name}-{number}"
            assert sorted(both.map(create, (file.with_name(name), second / name))) == [False, True]
    objects.write_full(file.name, b"theirs")
    with pytest.raises(FileExistsError):
        os.open(file, flags)


APPEND = """
import os, sys
path, writer = sys.argv[1:]
for number in range(40):
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{writer} {number} {'x' * (number * 7)}\\n".encode())
    os.close(descriptor)
"""


def test_appends_of_two_mounts(file: Path, second: Path, objects: rados.Ioctx) -> None:
    """Appends (O_APPEND) of several mounts to one file interleave whole, and none is lost or
    doubled."""
    file.write_bytes(b"")
    paths = [file, second / file.name, file, second / file.name]
    writers = [
        subprocess.Popen([sys.executable, "-c", APPEND, path, str(number)])
        for number, path in enumerate(paths)
    ]
    assert [writer.wait(100) for writer in writers] == [0] * 4
    lines = object_of(objects, file).decode().splitlines()
    expected = [f"{writer} {n} {'x' * (n * 7)}" for writer in range(4) for n in range(40)]
    assert sorted(lines) == sorted(expected)
    for writer in range(4):
        mine = [line for line in lines if line.startswith(f"{writer} ")]
        assert [int(line.split()[1]) for line in mine] == list(range(40))


def test_long_appends_of_two_mounts(file: Path, second: Path, objects: rados.Ioctx) -> None:
    """Appends (O_APPEND) of several mounts to one file interleave whole, and none is lost or
    doubled. So it is of one that takes many operations."""
    file.write_bytes(b"start;")
    pieces = [bytes([number]) * MIB for number in range(24)]
    lines = [b"line %d;" % number for number in range(40)]
    has_begun = threading.Event()

    def append_lines() -> None:
        for line in lines:
            with open(second / file.name, "ab", buffering=0) as appended:
                appended.write(line)
            has_begun.set()

    with ThreadPoolExecutor() as threads:
        writing = threads.submit(append_lines)
        assert has_begun.wait(30)
        with open(file, "ab", buffering=0) as appended:
            for piece in pieces:
                appended.write(piece)
        writing.result()
    content = object_of(objects, file)
    assert [content.count(record) for record in (*pieces, *lines)] == [1] * 64
    assert len(content) == sum(map(len, (b"start;", *pieces, *lines)))


@pytest.mark.parametrize("how", ["stat", "read"])
def test_conflict_that_was_heard_of(how: str, file: Path, objects: rados.Ioctx) -> None:
    """Of what this mount has heard since, write(2) tells at once, and nothing is kept."""
    file.write_bytes(b"begin")
    with opened(file, os.O_RDWR) as descriptor:
        objects.write_full(file.name, b"theirs")
        assert os.stat(file).st_size == 6 if how == "stat" else file.read_bytes() == b"theirs"
        with fails(errno.ESTALE):
            os.write(descriptor, b"mine!")
        with fails(errno.ESTALE):
            os.ftruncate(descriptor, 1)
        assert os.pread(descriptor, 10, 0) == b"theirs"
    assert object_of(objects, file) == b"theirs"
    file.write_bytes(b"again")
    assert object_of(objects, file) == b"again"


@pytest.mark.expects_log("")
@pytest.mark.parametrize("what", ["content", "xattr", "removal"])
def test_conflict(what: str, file: Path, objects: rados.Ioctx) -> None:
    """No silent overwrite: storing onto an object that someone else changed since it was opened
    (its xattrs included) fails with ESTALE."""
    file.write_bytes(b"begin")
    with opened(file, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"mine!")
        if what == "content":
            objects.write_full(file.name, b"theirs")
        elif what == "xattr":
            objects.set_xattr(file.name, "theirs", b"")
        else:
            objects.remove_object(file.name)
        with fails(errno.ESTALE):
            os.close(descriptor)
    if what == "removal":
        with pytest.raises(rados.ObjectNotFound):
            objects.stat(file.name)
    else:
        expected = b"theirs" if what == "content" else b"begin"
        assert object_of(objects, file) == expected
        assert file.read_bytes() == expected  # and not what could not be stored


@pytest.mark.expects_log("")
def test_conflict_of_two_creators(file: Path, objects: rados.Ioctx) -> None:
    """Who creates without O_EXCL, and finds at the flush that another was first, hears ESTALE."""
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        os.write(descriptor, b"mine")
        objects.write_full(file.name, b"theirs")
        with fails(errno.ESTALE):
            os.fsync(descriptor)
        with fails(errno.ESTALE):
            os.close(descriptor)  # tried again, and refused again
    assert object_of(objects, file) == b"theirs"


@pytest.mark.expects_log("")
def test_a_rewrite_after_a_conflict(file: Path, objects: rados.Ioctx) -> None:
    """After a conflict was told, the file can be opened and written again."""
    file.write_bytes(b"begin")
    with opened(file, os.O_WRONLY) as descriptor:
        os.write(descriptor, b"mine")
        objects.write_full(file.name, b"theirs")
        with fails(errno.ESTALE):
            os.close(descriptor)
    file.write_bytes(b"again")
    assert object_of(objects, file) == b"again"


def test_last_writer(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """With `-o conflict=last-writer` what is stored last wins, and appends go behind each other;
    only a part of a file that someone else removed is ESTALE."""
    with mounted(lab, f"ceph:{SHARED_POOL}", "conflict=last-writer") as mount:
        path = mount.path / name
        path.write_bytes(b"begin")
        with opened(path, os.O_WRONLY) as descriptor:
            os.write(descriptor, b"MINE")
            objects.write_full(name, b"theirs, longer")
        assert objects.read(name) == b"MINErs, longer"
        with opened(path, os.O_WRONLY | os.O_TRUNC) as descriptor:
            os.write(descriptor, b"new")
            objects.write_full(name, b"theirs")
        assert objects.read(name) == b"new"
        with opened(path, os.O_WRONLY | os.O_TRUNC) as descriptor:
            os.write(descriptor, b"whole")
            objects.remove_object(name)
        assert objects.read(name) == b"whole"


def test_last_writer_of_a_removed_file(lab: Lab, name: str, objects: rados.Ioctx) -> None:
    """With `-o conflict=last-writer` what is stored last wins, and appends go behind each other;
    only a part of a file that someone else removed is ESTALE."""
    expected = [r"is not stored, its bytes are kept", r"could not be stored, and are kept", "flush"]
    with mounted(lab, f"ceph:{SHARED_POOL}", "conflict=last-writer", expected=expected) as mount:
        path = mount.path / name
        path.write_bytes(b"begin")
        with opened(path, os.O_WRONLY) as descriptor:
            os.write(descriptor, b"N")
            objects.remove_object(name)
            with fails(errno.ESTALE):
                os.close(descriptor)
        assert not path.exists()


@pytest.mark.parametrize("size", [5 * MIB, 0])
def test_readers_during_a_rewrite(size: int, file: Path, objects: rados.Ioctx) -> None:
    """A file that is created or rewritten whole and is at most `atomic_max` reaches RADOS as one
    operation: a reader anywhere sees the old content or the new one, never half of it. O_TRUNC
    is held back for this."""
    contents = [os.urandom(size or 1000 + number) for number in range(2)]
    file.write_bytes(contents[0])
    done = threading.Event()
    seen: list[bytes] = []

    def watch() -> None:
        while not done.is_set():
            seen.append(objects.read(file.name, 8 * MIB))

    with ThreadPoolExecutor(1) as watcher:
        watching = watcher.submit(watch)
        try:
            for number in range(1, 16):
                with file.open("wb", buffering=0) as opened_file:
                    for offset in range(0, len(contents[0]) + 1, 100_000):
                        piece = contents[number % 2][offset : offset + 100_000]
                        opened_file.write(piece)
        finally:
            done.set()
        watching.result(60)
    assert set(seen) <= set(contents)
    assert len(set(seen)) == 2


def test_a_new_file_is_one_operation(file: Path, objects: rados.Ioctx) -> None:
    """A file that is created or rewritten whole and is at most `atomic_max` reaches RADOS as one
    operation: a reader anywhere sees the old content or the new one, never half of it. O_TRUNC
    is held back for this."""
    content = os.urandom(15 * MIB)
    with opened(file, os.O_WRONLY | os.O_CREAT) as descriptor:
        for offset in range(0, len(content), MIB):
            os.write(descriptor, content[offset : offset + MIB])
            with pytest.raises(rados.ObjectNotFound):
                objects.stat(file.name)
    assert object_of(objects, file) == content
    with opened(file, os.O_WRONLY | os.O_TRUNC) as descriptor:
        os.write(descriptor, b"new")
        assert objects.stat(file.name)[0] == len(content)
    assert object_of(objects, file) == b"new"


def test_unlink_during_a_flush(file: Path, objects: rados.Ioctx) -> None:
    """Unlink while a flush is under way leaves no object behind, 100 times of 100."""
    content = os.urandom(2 * MIB)
    with ThreadPoolExecutor(1) as flusher:
        for number in range(100):
            path = file.with_name(f"{file.name}-{number}")
            with opened(path, os.O_WRONLY | os.O_CREAT) as descriptor:
                os.write(descriptor, content)
                flush = flusher.submit(os.fsync, descriptor)
                time.sleep(number % 10 / 1000)  # at another point of the flush each time
                path.unlink()
                flush.result(60)
            with pytest.raises(rados.ObjectNotFound):
                objects.stat(path.name)


def test_two_writers_of_one_file(file: Path, objects: rados.Ioctx) -> None:
    """Writers of one file on one mount never conflict, whatever is flushed meanwhile."""
    file.write_bytes(bytes(64 * 1000))

    def write(writer: int) -> None:
        with opened(file, os.O_WRONLY) as descriptor:
            for index in range(writer, 64, 4):
                os.pwrite(descriptor, bytes([index + 1]) * 1000, index * 1000)
                os.fsync(descriptor)
                os.setxattr(file, f"user.{index}", b"")

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))
    assert object_of(objects, file) == b"".join(bytes([i + 1]) * 1000 for i in range(64))
    assert len(os.listxattr(file)) == 64


def test_removed_elsewhere_while_open(file: Path, all_pools: Mount, objects: rados.Ioctx) -> None:
    """A reader of a file that is removed elsewhere hears ESTALE, and a new open ENOENT."""
    file.write_bytes(os.urandom(3 * MIB))
    objects.set_xattr(file.name, "foreign", b"")
    with opened(file, os.O_RDONLY) as descriptor:
        objects.remove_object(file.name)
        with fails(errno.ESTALE):
            os.pread(descriptor, 100, 2 * MIB)
        with fails(errno.ENOENT):
            os.open(file, os.O_RDONLY)
    file.write_bytes(b"new")
    assert file.read_bytes() == b"new"
