"""Real programs on the files of a pool."""

import fcntl
import hashlib
import mmap
import multiprocessing
import os
import sqlite3
import subprocess
from pathlib import Path

import pytest
import rados

from radosmount.config import MIB
from radosmount.lab import Lab
from tests.mount.calls import object_of, run
from tests.support.cluster import SHARED_POOL

SIZES = [0, 1, 4096, 5 * MIB, 100 * MIB]


@pytest.mark.parametrize("size", SIZES)
def test_cp(size: int, file: Path, tmp_path: Path, lab: Lab) -> None:
    """cp in and out compares equal through the mount and with `rados get`."""
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(size))
    run("cp", source, file)
    run("cmp", source, file)
    lab.rados("-p", SHARED_POOL, "get", file.name, str(copy))
    run("cmp", source, copy)
    copy.unlink()
    run("cp", file, copy)
    run("cmp", source, copy)
    file.unlink()


def test_rados_put_is_seen_by_cat(file: Path, tmp_path: Path, lab: Lab) -> None:
    """`rados put` is seen by cat on the next open."""
    for content in ("one\n", "two\n", "a longer one\n", ""):
        (tmp_path / "content").write_text(content)
        lab.rados("-p", SHARED_POOL, "put", file.name, str(tmp_path / "content"))
        assert run("cat", file) == content


def test_setfattr_and_getfattr(file: Path, lab: Lab) -> None:
    """`setfattr -n user.color -v blue` is `rados getxattr … color`, and back."""
    file.write_bytes(b"content")
    run("setfattr", "-n", "user.color", "-v", "blue", file)
    assert lab.rados("-p", SHARED_POOL, "getxattr", file.name, "color") == b"blue"
    lab.rados("-p", SHARED_POOL, "setxattr", file.name, "shape", "round")
    shown = run("getfattr", "--absolute-names", "-d", file).splitlines()
    assert sorted(shown[1:3]) == ['user.color="blue"', 'user.shape="round"']
    run("setfattr", "-x", "user.color", file)
    assert lab.rados("-p", SHARED_POOL, "listxattr", file.name).split() == [b"shape"]


def test_rsync(directory: Path, name: str, tmp_path: Path, objects: rados.Ioctx) -> None:
    """rsync -t copies in; a second run finds nothing to do; a change goes over alone."""
    sources = [tmp_path / f"{name}-{number}" for number in range(5)]
    for number, source in enumerate(sources):
        source.write_bytes(os.urandom(number * 300_000))
        os.utime(source, (1_000_000_000, 1_000_000_000 + number))
    rsync = ("rsync", "-rlt", "--itemize-changes", f"{tmp_path}/", f"{directory}/")
    run(*rsync, "--omit-dir-times")
    for source in sources:
        assert object_of(objects, source) == source.read_bytes()
    assert run(*rsync, "--omit-dir-times") == ""
    sources[1].write_bytes(b"changed")
    assert [line.split()[1] for line in run(*rsync, "--omit-dir-times").splitlines()] == [
        sources[1].name
    ]
    assert (directory / sources[1].name).read_bytes() == b"changed"


@pytest.mark.parametrize("options", ["-a", "-a --inplace", "-a --append"])
def test_rsync_ways(options: str, file: Path, tmp_path: Path, objects: rados.Ioctx) -> None:
    """rsync also works in place, appending, and with all of -a."""
    source = tmp_path / file.name
    source.write_bytes(os.urandom(3 * MIB))
    source.chmod(0o644)
    run("rsync", *options.split(), source, file)
    with source.open("ab") as longer:
        longer.write(os.urandom(MIB))
    run("rsync", *options.split(), source, file)
    assert object_of(objects, file) == source.read_bytes()


def test_sed_in_place(file: Path, objects: rados.Ioctx) -> None:
    """`sed -i` edits a file, which leaves nothing else behind."""
    file.write_text("one\ntwo\nthree\n")
    run("sed", "-i", "s/two/2/", file)
    assert object_of(objects, file) == b"one\n2\nthree\n"
    assert not [path for path in file.parent.iterdir() if path.name.startswith("sed")]


def test_zip_and_unzip(file: Path, tmp_path: Path) -> None:
    """zip writes an archive in place, adds to it, and unzip reads it."""
    archive = file.with_name(f"{file.name}.zip")
    contents = {"first": os.urandom(2 * MIB), "second": b"text\n" * 1000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        run("zip", "-q", archive, name, cwd=tmp_path)
    run("unzip", "-tq", archive)
    run("unzip", "-q", archive, "-d", tmp_path / "out")
    for name, content in contents.items():
        assert (tmp_path / "out" / name).read_bytes() == content


@pytest.mark.parametrize("journal", ["DELETE", "TRUNCATE", "PERSIST", "MEMORY"])
def test_sqlite(journal: str, file: Path) -> None:
    """A database keeps its rows, rolls back, and passes its own check."""
    statements = f"""
        PRAGMA journal_mode={journal};
        CREATE TABLE numbers(number INTEGER, text TEXT);
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)
            INSERT INTO numbers SELECT i, 'number ' || i FROM n;
        BEGIN; DELETE FROM numbers; ROLLBACK;
        UPDATE numbers SET text = 'changed' WHERE number % 2 = 0;
        VACUUM;"""
    run("sqlite3", file, statements)
    query = "SELECT count(*), sum(number) FROM numbers WHERE text = 'changed'; PRAGMA quick_check"
    assert run("sqlite3", file, query).split() == ["2500|6252500", "ok"]


def test_sqlite_locks_out_a_second_writer(file: Path) -> None:
    """fcntl locks hold between the programs of one mount."""
    database = sqlite3.connect(file, isolation_level=None)
    database.execute("CREATE TABLE t(a)")
    database.execute("BEGIN EXCLUSIVE")
    command = ["sqlite3", str(file), "INSERT INTO t VALUES (1)"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "locked" in result.stderr
    database.execute("COMMIT")
    database.close()
    run("sqlite3", file, "INSERT INTO t VALUES (1)")


def test_os_replace(file: Path, objects: rados.Ioctx) -> None:
    """Python's os.replace onto an existing name."""
    file.write_bytes(b"old")
    fresh = file.with_name(f"{file.name}.tmp")
    fresh.write_bytes(b"new content")
    os.replace(fresh, file)
    assert file.read_bytes() == b"new content"
    assert object_of(objects, file) == b"new content"
    with pytest.raises(FileNotFoundError):
        fresh.stat()
    with pytest.raises(rados.ObjectNotFound):
        objects.stat(fresh.name)


def test_tar(directory: Path, name: str, tmp_path: Path) -> None:
    """tar writes an archive into a pool, reads it there, and unpacks into a pool, with mtimes."""
    source, target = tmp_path / name, directory / name
    source.write_bytes(os.urandom(MIB))
    os.utime(source, (1_111_111_111, 1_111_111_111))
    archive = directory / f"{name}.tar"
    run("tar", "-C", tmp_path, "-cf", archive, name)
    run("tar", "-C", directory, "-xpf", archive)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_mtime == 1_111_111_111
    run("tar", "-C", directory, "-df", archive)


def test_dd(file: Path, tmp_path: Path, objects: rados.Ioctx) -> None:
    """dd overwrites the middle of a file (conv=notrunc), and syncs."""
    expected = bytearray(os.urandom(2 * MIB))
    file.write_bytes(expected)
    piece = os.urandom(300 * 512)
    (tmp_path / "piece").write_bytes(piece)
    words = ("bs=512", "seek=777", "conv=notrunc,fsync", "status=none")
    run("dd", f"if={tmp_path / 'piece'}", f"of={file}", *words)
    expected[777 * 512 : 1077 * 512] = piece
    assert object_of(objects, file) == expected
    run("dd", "if=/dev/zero", f"of={file}", "bs=1M", "count=3", "status=none", "oflag=direct")
    assert object_of(objects, file) == bytes(3 * MIB)


def test_mmap(file: Path, objects: rados.Ioctx) -> None:
    """Writing through a shared mapping reaches the object with msync or close."""
    file.write_bytes(bytes(3 * MIB))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as mapping:
        mapping[MIB - 3 : MIB + 3] = b"middle"
        mapping.flush()
        os.fsync(opened.fileno())
        assert objects.read(file.name, 6, MIB - 3) == b"middle"
        mapping[:5] = b"begin"
    assert file.read_bytes()[:5] == b"begin"


def test_flock(file: Path) -> None:
    """flock(1) and flock(2) exclude each other on one mount."""
    file.write_bytes(b"")
    with file.open() as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        assert subprocess.run(["flock", "-n", file, "true"], timeout=60).returncode == 1
        fcntl.flock(opened, fcntl.LOCK_UN)
        assert subprocess.run(["flock", "-n", file, "true"], timeout=60).returncode == 0


def test_append_by_shells(file: Path, objects: rados.Ioctx) -> None:
    """`>>` by many processes at once loses no line."""
    script = 'for i in $(seq 25); do echo "$0 $i" >> "$1"; done'
    writers = [subprocess.Popen(["sh", "-c", script, str(number), file]) for number in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    expected = sorted(f"{number} {i}" for number in range(4) for i in range(1, 26))
    assert sorted(object_of(objects, file).decode().splitlines()) == expected


def test_mv_to_another_pool_copies(root: Path, file: Path, pool: str) -> None:
    """mv between pools copies, since rename says EXDEV, and keeps mtime and xattrs."""
    file.write_bytes(b"content")
    os.setxattr(file, "user.color", b"blue")
    os.utime(file, (1_000_000_000, 1_000_000_000))
    target = root / pool / "moved"
    run("mv", file, target)
    assert not file.exists()
    assert target.read_bytes() == b"content"
    assert os.getxattr(target, "user.color") == b"blue"
    assert target.stat().st_mtime == 1_000_000_000


def write_files(directory: Path, name: str, first: int) -> dict[str, str]:
    """Write 25 files, of sizes from nothing to a megabyte; return the hashes."""
    hashes = {}
    for number in range(first, first + 25):
        content = os.urandom((number * 37_019) % MIB if number % 10 else 0)
        (directory / f"{name}-{number}").write_bytes(content)
        hashes[f"{name}-{number}"] = hashlib.sha256(content).hexdigest()
    return hashes


def test_many_writers(directory: Path, name: str, objects: rados.Ioctx) -> None:
    """200 files written by 8 processes at once compare equal."""
    with multiprocessing.get_context("spawn").Pool(8) as writers:
        jobs = [(directory, name, 25 * writer) for writer in range(8)]
        hashes = {k: v for part in writers.starmap(write_files, jobs) for k, v in part.items()}
    assert len(hashes) == 200
    for file_name, expected in hashes.items():
        path = directory / file_name
        assert hashlib.sha256(path.read_bytes()).hexdigest() == expected
        assert hashlib.sha256(object_of(objects, path)).hexdigest() == expected
    listed = {path.name for path in directory.iterdir()}
    assert hashes.keys() <= listed
