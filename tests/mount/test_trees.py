"""The tree view on a real mount: what programs make of directories, and what RADOS has of them."""

import contextlib
import errno
import os
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import rados

from radosmount.lab import Lab
from tests.mount.mounting import mounted
from tests.support.cluster import SHARED_POOL

# A source tree that is always there: some directories, some hundred files.
SOURCE = Path(sysconfig.get_path("stdlib")) / "json"
GIT_ENV = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_NOSYSTEM": "1", "HOME": "/nonexistent",
}  # fmt: skip


def run(*words: object, cwd: Path | None = None) -> str:
    result = subprocess.run(
        list(map(str, words)),
        capture_output=True, text=True, cwd=cwd, timeout=100, env={**os.environ, **GIT_ENV},
    )  # fmt: skip
    assert result.returncode == 0, f"{words}: {result}"
    return result.stdout


@pytest.fixture
def tree(lab: Lab, namespace: str) -> Iterator[Path]:
    """A namespace of its own in the tree view."""
    expected = ["chmod and chown have no effect"]
    with mounted(lab, f"ceph:{SHARED_POOL}/{namespace}", expected=expected) as mount:
        yield mount.path


@pytest.fixture
def objects(cluster: rados.Rados, namespace: str) -> Iterator[rados.Ioctx]:
    """The same as another client sees it."""
    with contextlib.closing(cluster.open_ioctx(SHARED_POOL)) as ioctx:
        ioctx.set_namespace(namespace)
        yield ioctx


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree to copy, with an empty directory in it."""
    run("cp", "-r", SOURCE, tmp_path / "source")
    (tmp_path / "source" / "empty" / "deeper").mkdir(parents=True)
    return tmp_path / "source"


def names_of(objects: rados.Ioctx) -> set[str]:
    return {listed.key for listed in objects.list_objects()}


def test_names_and_directories(lab: Lab, namespace: str, tree: Path, objects: rados.Ioctx) -> None:
    """`/` in an object's name separates directories, and a directory is there while any object
    lies below it; with `-o names=flat` it shows escaped."""
    objects.write_full("img/2026/1.jpg", b"jpg")
    assert os.listdir(tree) == ["img"]
    assert (tree / "img" / "2026" / "1.jpg").read_bytes() == b"jpg"
    (tree / "img" / "2026" / "2.jpg").write_bytes(b"new")
    assert objects.read("img/2026/2.jpg") == b"new"
    with mounted(lab, f"ceph:{SHARED_POOL}/{namespace}", "names=flat") as flat:
        assert sorted(os.listdir(flat.path)) == ["img%2F2026%2F1.jpg", "img%2F2026%2F2.jpg"]
    for number in (1, 2):
        (tree / "img" / "2026" / f"{number}.jpg").unlink()
    assert os.listdir(tree) == []


def test_mkdir_and_rmdir(tree: Path, objects: rados.Ioctx) -> None:
    """`mkdir d` makes the empty marker object `d/`, so that an empty directory stays; rmdir is
    ENOTEMPTY when anything lies below, by anyone's writing."""
    (tree / "d" / "e").mkdir(parents=True)
    assert names_of(objects) == {"d/", "d/e/"}
    assert os.listdir(tree / "d") == ["e"]
    (tree / "d" / "e").rmdir()
    objects.write_full("d/theirs", b"")
    with pytest.raises(OSError, match="not empty") as refusal:
        (tree / "d").rmdir()
    assert refusal.value.errno == errno.ENOTEMPTY
    objects.remove_object("d/theirs")
    (tree / "d").rmdir()
    assert names_of(objects) == set()
    with pytest.raises(FileNotFoundError):
        (tree / "d").rmdir()
    (tree / "d").mkdir()
    with pytest.raises(FileExistsError):
        (tree / "d").mkdir()


def test_a_directory_made_in_place_of_a_removed_one(tree: Path) -> None:
    """Can be used, though the kernel still knows the first by a file that is open in it."""
    directory = tree / "d"
    directory.mkdir()
    with (directory / "f").open("w+b") as file:
        (directory / "f").unlink()
        directory.rmdir()
        directory.mkdir()
        (directory / "e").mkdir()
        (directory / "f").write_bytes(b"new")
        assert sorted(os.listdir(directory)) == ["e", "f"]
        file.write(b"old")
        file.seek(0)
        assert file.read() == b"old"
    assert (directory / "f").read_bytes() == b"new"


def test_a_file_and_a_directory_of_one_name(tree: Path, objects: rados.Ioctx) -> None:
    """A name that is both, an object `a` and a directory (`a/b`), keeps both reachable: the
    directory is `a`, the object `a%.`."""
    objects.write_full("a", b"file")
    objects.write_full("a/b", b"below")
    assert set(os.listdir(tree)) == {"a", "a%."}
    assert (tree / "a%.").read_bytes() == b"file"
    assert (tree / "a" / "b").read_bytes() == b"below"


def test_renaming_a_directory(tree: Path, source: Path, objects: rados.Ioctx) -> None:
    """Renaming a directory is EXDEV, so that mv copies."""
    run("cp", "-r", source, tree / "old")
    with pytest.raises(OSError, match="cross-device") as refusal:
        (tree / "old").rename(tree / "new")
    assert refusal.value.errno == errno.EXDEV
    run("mv", tree / "old", tree / "new")
    run("diff", "-r", source, tree / "new")
    assert all(name.startswith("new/") for name in names_of(objects))


def test_rename_between_directories(tree: Path, objects: rados.Ioctx) -> None:
    """A file moves between directories of a pool."""
    (tree / "d").mkdir()
    (tree / "e").mkdir()
    (tree / "d" / "f").write_bytes(b"content")
    (tree / "d" / "f").rename(tree / "e" / "g")
    assert objects.read("e/g") == b"content"
    assert os.listdir(tree / "d") == []


def test_tar(tree: Path, source: Path, tmp_path: Path) -> None:
    """tar goes there and back with no difference."""
    run("tar", "cf", tmp_path / "in.tar", "-C", source, ".")
    run("tar", "xf", tmp_path / "in.tar", "-C", tree)
    run("diff", "-r", source, tree)
    run("tar", "cf", tmp_path / "out.tar", "-C", tree, ".")
    (tmp_path / "back").mkdir()
    run("tar", "xf", tmp_path / "out.tar", "-C", tmp_path / "back")
    run("diff", "-r", source, tmp_path / "back")


def test_rsync(tree: Path, source: Path, tmp_path: Path) -> None:
    """rsync finds nothing to do the second time, and brings all back."""
    words = ["rsync", "-rt", "--omit-dir-times", "--itemize-changes"]
    assert run(*words, f"{source}/", tree)
    assert run(*words, f"{source}/", tree) == ""
    run(*words, f"{tree}/", tmp_path / "back")
    run("diff", "-r", source, tmp_path / "back")


def test_find_du_ls_and_rm(tree: Path, source: Path, objects: rados.Ioctx) -> None:
    """They walk the whole tree, and rm -r leaves nothing."""
    run("cp", "-r", source, tree / "copy")
    wanted = sorted(run("find", ".", cwd=source).splitlines())
    assert sorted(run("find", ".", cwd=tree / "copy").splitlines()) == wanted
    assert run("ls", "-R", cwd=tree / "copy") == run("ls", "-R", cwd=source)
    run("du", tree)
    run("rm", "-r", tree / "copy")
    assert names_of(objects) == set()


def test_git(tree: Path, source: Path, tmp_path: Path) -> None:
    """git init, add, commit, gc, fsck and clone."""
    work = tree / "work"
    run("git", "init", "-q", work)
    run("cp", "-r", source, work / "source")
    for words in (["add", "."], ["commit", "-q", "-m", "one"], ["gc", "-q"], ["fsck", "--strict"]):
        run("git", "-c", "gc.auto=0", *words, cwd=work)
    (work / "source" / "new").write_text("new\n")
    run("git", "add", ".", cwd=work)
    run("git", "commit", "-q", "-m", "two", cwd=work)
    run("git", "clone", "-q", "--no-hardlinks", work, tmp_path / "clone")
    run("git", "clone", "-q", "--no-hardlinks", tmp_path / "clone", tree / "clone")
    run("git", "fsck", "--strict", cwd=tree / "clone")
    assert run("git", "log", "--format=%s", cwd=tree / "clone").split() == ["two", "one"]
    assert run("git", "status", "--porcelain", cwd=tree / "clone") == ""


def test_errors(tree: Path, objects: rados.Ioctx) -> None:
    objects.write_full("file", b"")
    (tree / "d").mkdir()
    for number, call in (
        (errno.ENOTDIR, lambda: (tree / "file" / "x").stat()),
        (errno.ENOTDIR, lambda: (tree / "file").rmdir()),
        (errno.EISDIR, lambda: (tree / "d").unlink()),
        (errno.EISDIR, lambda: (tree / "d").write_bytes(b"")),
        (errno.EEXIST, lambda: (tree / "file").mkdir()),
        (errno.ENOENT, lambda: (tree / "no" / "x").write_bytes(b"")),
        (errno.EINVAL, lambda: (tree / ".snap").mkdir()),
        (errno.ENAMETOOLONG, lambda: (tree / ("x" * 256)).mkdir()),
    ):
        with pytest.raises(OSError, match=os.strerror(number)):
            call()


def test_namespaces(root: Path, namespace: str, objects: rados.Ioctx) -> None:
    """The namespace NAME of a pool is the pool's directory `.nspace/NAME`: reachable by name,
    and not listed."""
    objects.write_full("theirs", b"content")
    space = root / SHARED_POOL / ".nspace" / namespace
    assert os.listdir(space) == ["theirs"]
    (space / "ours").write_bytes(b"new")
    assert objects.read("ours") == b"new"
    assert ".nspace" not in os.listdir(root / SHARED_POOL)
    assert os.listdir(space.parent) == []
    with pytest.raises(OSError, match="cross-device"):
        (space / "ours").rename(root / SHARED_POOL / "ours")
