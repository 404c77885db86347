"""Real programs in the tree view, on directories of a pool.

What they leave behind is checked as a second mount shows it, by the programs' own verifiers where
they have some."""

import dbm.dumb
import dbm.ndbm
import os
import shelve
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from radosmount.lab import Lab
from tests.mount.calls import eventually, opened, run
from tests.mount.mounting import mounted
from tests.support.cluster import SHARED_POOL


@pytest.fixture(scope="module")
def tree_mounts(lab: Lab) -> Iterator[tuple[Path, Path]]:
    """Two mounts of one namespace. Files may be executed."""
    words = (lab, f"ceph:{SHARED_POOL}/programs", "names=tree,fmode=755")
    expected = ["chmod and chown have no effect"]
    with (
        mounted(*words, expected=expected) as ours,
        mounted(*words, expected=expected) as theirs,
    ):
        yield ours.path, theirs.path


@pytest.fixture
def tree(tree_mounts: tuple[Path, Path], name: str) -> Path:
    """An empty directory, where the programs run."""
    path = tree_mounts[0] / name
    path.mkdir()
    return path


@pytest.fixture
def elsewhere(tree_mounts: tuple[Path, Path], tree: Path) -> Path:
    """The same directory on the second mount."""
    return tree_mounts[1] / tree.name


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A local tree: some directories, an empty one, an empty file, some Python."""
    path = tmp_path / "source"
    shutil.copytree(Path(sysconfig.get_path("stdlib")) / "json", path)
    (path / "empty" / "deeper").mkdir(parents=True)
    (path / "empty" / "file").touch()
    for number, found in enumerate(path.rglob("*")):
        os.utime(found, (1_000_000_000, 1_000_000_000 + number))
    return path


def names_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def wait_for_names(tree: Path, elsewhere: Path) -> None:
    """Of what another mount has made or removed, a listing may be a second late."""
    eventually(lambda: names_below(elsewhere) == names_below(tree), 10)


def files_of(directory: Path) -> list[str]:
    """What find(1) says of every file: path, bytes, and mtime in seconds."""
    return sorted(
        run("find", ".", "-type", "f", "-printf", "%P %s %Ts\n", cwd=directory).split("\n")
    )


def test_unzip_in_the_tree_view(source: Path, tree: Path, elsewhere: Path) -> None:
    """A tree that is packed and unpacked by Info-ZIP is what it was, and its archive is sound."""
    run("zip", "-qr", tree / "archive.zip", ".", cwd=source)
    run("unzip", "-tq", elsewhere / "archive.zip")
    run("unzip", "-q", tree / "archive.zip", "-d", tree / "out")
    wait_for_names(tree, elsewhere)
    run("diff", "-r", source, elsewhere / "out")
    assert files_of(elsewhere / "out") == files_of(source)


def test_cpio(source: Path, tree: Path, elsewhere: Path, tmp_path: Path) -> None:
    """A tree goes in, out of the mount, and in again; the archives' checksums are right."""
    pack = "find . | cpio -o --quiet -H crc -F"
    run("sh", "-c", f"{pack} {tree}/in.cpio", cwd=source)
    run("cpio", "-i", "--quiet", "--only-verify-crc", "-F", elsewhere / "in.cpio")
    (tree / "out").mkdir()
    run("cpio", "-idm", "--quiet", "-F", tree / "in.cpio", cwd=tree / "out")
    wait_for_names(tree, elsewhere)
    run("diff", "-r", source, elsewhere / "out")
    assert files_of(elsewhere / "out") == files_of(source)
    run("sh", "-c", f"{pack} {tmp_path}/out.cpio", cwd=elsewhere / "out")
    (tmp_path / "back").mkdir()
    run("cpio", "-idm", "--quiet", "-F", tmp_path / "out.cpio", cwd=tmp_path / "back")
    run("diff", "-r", source, tmp_path / "back")


def test_sed_of_a_whole_tree(source: Path, tree: Path, elsewhere: Path) -> None:
    """`sed -i` of every file edits what it would on a local disk, and keeps backups."""
    run("cp", "-r", source, tree / "copy")
    sed = ("-name", "*.py", "-exec", "sed", "-i.orig", "s/import/IMPORT/", "{}", "+")
    for directory in (source, tree / "copy"):
        run("find", directory, *sed)
    wait_for_names(tree, elsewhere)
    run("diff", "-r", source, elsewhere / "copy")
    assert len(list(elsewhere.glob("copy/*.orig"))) == len(list(source.glob("*.py")))


def test_find_du_and_ls(source: Path, tree: Path, elsewhere: Path) -> None:
    """They tell of the files what they tell of them on a local disk."""
    run("cp", "-r", "--preserve=timestamps", source, tree / "copy")
    wait_for_names(tree, elsewhere)
    paths = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    for command in (
        ["find", ".", "-empty"],
        ["find", ".", "-type", "f", "-size", "+4"],
        ["find", ".", "-type", "f", "-newermt", "@1000000003"],
        ["find", ".", "-name", "__pycache__", "-prune", "-o", "-print"],
        ["du", "-b", *paths],
        ["ls", "-RAp"],
    ):
        locally, found = (run(*command, cwd=path) for path in (source, elsewhere / "copy"))
        assert sorted(found.splitlines()) == sorted(locally.splitlines()) != []
    byte_count = sum((source / path).stat().st_size for path in paths)
    assert run("du", "-sb", elsewhere / "copy").split()[0] == str(byte_count)


def test_an_editor_saves(tree: Path, elsewhere: Path) -> None:
    """A backup, a new file that is synced, and a rename: at each step the file is whole."""
    file, backup, fresh = tree / "file", tree / "file~", tree / "file.new"
    file.write_text("old")
    for text in ("a longer one", "short", ""):
        before = file.read_text()
        shutil.copy2(file, backup)
        with opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
            os.write(descriptor, text.encode())
            os.fsync(descriptor)
            assert (elsewhere / "file").read_text() == before
            assert (elsewhere / "file.new").read_text() == text
        fresh.rename(file)
        with opened(tree, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
            os.fsync(descriptor)
        assert (elsewhere / "file").read_text() == text
        assert (elsewhere / "file~").read_text() == before
    assert sorted(os.listdir(tree)) == ["file", "file~"]


@pytest.mark.parametrize("how", ["yes", "no"])
def test_vim(how: str, tree: Path, elsewhere: Path) -> None:
    """vim makes its backup as a copy (backupcopy=yes) or by a rename, saves, and leaves no swap
    file."""
    (tree / "file").write_text("one\ntwo\nthree\n")
    settings = f"set backup backupskip= backupcopy={how} directory=. fsync"
    vim = ("vim.tiny", "-es", "-u", "NONE", "-i", "NONE", "-N", "-c", settings)
    run(*vim, "-c", "%s/two/2/", "-c", "wq", tree / "file")
    assert (elsewhere / "file").read_text() == "one\n2\nthree\n"
    assert (elsewhere / "file~").read_text() == "one\ntwo\nthree\n"
    assert sorted(os.listdir(tree)) == ["file", "file~"]


@pytest.mark.parametrize("database", [dbm.ndbm, dbm.dumb], ids=["ndbm", "dumb"])
def test_shelve(database: Any, tree: Path, elsewhere: Path, tmp_path: Path) -> None:
    """A shelf keeps what is put, changed and removed, over two openings."""

    def opened_shelf(directory: Path, flag: str) -> shelve.Shelf[list[int]]:
        return shelve.Shelf(database.open(str(directory / "shelf"), flag))

    expected = {f"key {number}": list(range(number)) for number in range(200)}
    with opened_shelf(tree, "c") as shelf:
        shelf.update(expected)
    with opened_shelf(tree, "w") as shelf:
        for number in range(0, 200, 3):
            del shelf[f"key {number}"], expected[f"key {number}"]
        shelf.sync()
        shelf["key 1"] = expected["key 1"] = [-1]
    wait_for_names(tree, elsewhere)
    copied = shutil.copytree(elsewhere, tmp_path / "copy")
    for directory in (tree, copied):
        with opened_shelf(directory, "r") as shelf:
            assert dict(shelf) == expected


# Commits 100 rows, and is killed within a transaction that has reached the disk in part.
SQLITE_WRITER: Final = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute(f"PRAGMA journal_mode={sys.argv[2]}")
database.execute("PRAGMA cache_size=4")
database.execute("CREATE TABLE t(number INTEGER, text TEXT)")
for number in range(100):
    database.execute("INSERT INTO t VALUES (?, ?)", (number, "text" * 100))
database.execute("BEGIN")
database.execute("UPDATE t SET number = -1, text = 'changed' || text")
os.kill(os.getpid(), signal.SIGKILL)
"""
SQLITE_CHECK: Final = "PRAGMA integrity_check; SELECT count(*), sum(number) FROM t"


@pytest.mark.parametrize(("journal", "beside"), [("DELETE", "journal"), ("WAL", "wal")])
def test_sqlite_recovers(
    journal: str, beside: str, tree: Path, elsewhere: Path, tmp_path: Path
) -> None:
    """A writer that is killed within a transaction leaves what it had committed: to others at
    once, and to the next that opens the database here."""
    file = tree / "db"
    command = [sys.executable, "-c", SQLITE_WRITER, str(file), journal]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert (elsewhere / f"db-{beside}").stat().st_size > 10_000
    wait_for_names(tree, elsewhere)
    copied = shutil.copytree(elsewhere, tmp_path / "copy")
    for directory in (copied, tree):
        assert run("sqlite3", directory / "db", SQLITE_CHECK).split() == ["ok", "100|4950"]
    run("sqlite3", file, "INSERT INTO t VALUES (50, 'new'); VACUUM")
    assert run("sqlite3", elsewhere / "db", SQLITE_CHECK).split() == ["ok", "101|5000"]


def test_sqlite_wal_is_shared(tree: Path, elsewhere: Path) -> None:
    """With a write-ahead log, whose index is shared memory, a reader sees what another process
    has committed meanwhile, but not within a transaction of its own."""
    file = tree / "db"
    assert run("sqlite3", file, "PRAGMA journal_mode=WAL; CREATE TABLE t(number)") == "wal\n"
    pipe = subprocess.PIPE
    with subprocess.Popen(["sqlite3", file], stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdin
        assert reader.stdout

        def count(statements: str = "") -> int:
            assert reader.stdin
            assert reader.stdout
            reader.stdin.write(f"{statements}; SELECT count(*) FROM t;\n")
            reader.stdin.flush()
            return int(reader.stdout.readline())

        assert count() == 0
        for number in range(20):
            run("sqlite3", file, f"INSERT INTO t VALUES ({number})")
            assert count() == number + 1
        assert {path.name for path in tree.iterdir()} == {"db", "db-wal", "db-shm"}
        assert count("BEGIN") == 20
        run("sqlite3", file, "INSERT INTO t VALUES (20)")
        assert count() == 20
        assert count("COMMIT") == 21
        reader.stdin.close()
        assert reader.wait(60) == 0
    assert os.listdir(tree) == ["db"]
    assert run("sqlite3", elsewhere / "db", "PRAGMA integrity_check") == "ok\n"


# Commits, and is killed within a transaction. "lmdb" is the distribution's.
LMDB_WRITER: Final = """
import os, signal, sys
import lmdb
environment = lmdb.open(sys.argv[1], map_size=8 << 20, writemap=sys.argv[2] == "writemap")
def put(transaction, first):
    for number in range(first, first + 50):
        transaction.put(b"%06d" % number, bytes([number % 256]) * (number % 500))
for first in range(0, 1000, 50):
    with environment.begin(write=True) as transaction:
        put(transaction, first)
    with environment.begin() as transaction:
        assert transaction.stat()["entries"] == first + 50
transaction = environment.begin(write=True)
put(transaction, 1000)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("how", ["write", "writemap"])
def test_lmdb(how: str, tree: Path, elsewhere: Path, tmp_path: Path) -> None:
    """What was committed by pwrite(2), or through a shared mapping and msync(2), is in RADOS,
    though the writer was killed; the next one goes on there."""
    command = ["/usr/bin/python3", "-c", LMDB_WRITER, str(tree), how]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    wait_for_names(tree, elsewhere)
    copied = shutil.copytree(elsewhere, tmp_path / "copy")
    for directory in (copied, tree):
        assert "Entries: 1000" in run("mdb_stat", directory)
        lines = run("mdb_dump", directory).partition("HEADER=END\n")[2].split("\n ")
        for number in range(1000):
            value = bytes([number % 256]) * (number % 500)
            assert lines[2 * number].strip() == (b"%06d" % number).hex()
            assert lines[2 * number + 1].split()[:1] == ([value.hex()] if value else [])
    compact = tree / "compact"
    compact.mkdir()
    run("mdb_copy", "-c", tree, compact)
    # mdb_load knows not all that mdb_dump writes.
    run("sh", "-c", f"mdb_dump {compact} | grep -v db_pagesize | mdb_load {tree}")
    wait_for_names(tree, elsewhere)
    copied = shutil.copytree(elsewhere, tmp_path / "again")
    assert run("mdb_dump", copied) == run("mdb_dump", tree)


MAKEFILE: Final = """\
CFLAGS = -O1 -Wall -Werror -MMD
parts = $(patsubst %.c,%.o,$(wildcard part*.c))
program: main.o libparts.a
\t$(CC) -o $@ $^
libparts.a: $(parts)
\t$(AR) rcs $@ $^
-include $(wildcard *.d)
"""
PART_COUNT: Final = 8


def test_make(tree: Path, elsewhere: Path) -> None:
    """gcc, ar and ld build a program that runs, here and on the other mount; make builds again
    only what depends on a change."""
    parts = range(PART_COUNT)
    declarations = "".join(f"int part{part}(int);\n" for part in parts)
    (tree / "parts.h").write_text(f"{declarations}#define STEP 1\n")
    for part in parts:
        body = f"int part{part}(int n) {{ return n + {part} * STEP; }}"
        (tree / f"part{part}.c").write_text(f'#include "parts.h"\n{body}\n')
    calls = "".join(f"    n = part{part}(n);\n" for part in parts)
    main = f'int main(void) {{\n    int n = 0;\n{calls}    printf("%d\\n", n);\n    return 0;\n}}\n'
    (tree / "main.c").write_text(f'#include <stdio.h>\n#include "parts.h"\n{main}')
    (tree / "Makefile").write_text(MAKEFILE)

    def make() -> int:
        """How many files it compiles."""
        for path in tree.iterdir():
            if path not in changed:  # an mtime has whole seconds
                os.utime(path, (1_000_000_000, 1_000_000_000))
        changed.clear()
        return run("make", "-s", "-j2", "--trace", cwd=tree).count(" -c ")

    changed = {path for path in tree.iterdir() if path.suffix == ".c"}
    assert make() == PART_COUNT + 1
    assert run(elsewhere / "program") == run(tree / "program") == "28\n"
    run("nm", elsewhere / "libparts.a")
    assert make() == 0
    (tree / "part3.c").write_text("int part3(int n) { return n + 1003; }\n")
    changed.add(tree / "part3.c")
    assert make() == 1
    assert run(elsewhere / "program") == "1028\n"
    (tree / "parts.h").write_text(f"{declarations}#define STEP 2\n")
    changed.add(tree / "parts.h")
    assert make() == PART_COUNT
    assert run(elsewhere / "program") == "1053\n"


@pytest.mark.parametrize("engine", ["psync", "mmap"])
def test_fio_in_the_tree_view(engine: str, tree: Path, elsewhere: Path, tmp_path: Path) -> None:
    """What fio writes, by write(2) or through mappings, has the right checksums here and on the
    other mount."""
    fio = ["fio", "--name=job", f"--ioengine={engine}", "--rw=randwrite", "--bs=4k", "--size=2m"]
    fio += ["--numjobs=2", "--nrfiles=2", "--verify=crc32c", "--verify_fatal=1"]
    run(*fio, f"--directory={tree}", cwd=tmp_path)
    run(*fio, f"--directory={elsewhere}", "--verify_only", cwd=tmp_path)
