"""`-o posix` on a real mount: modes, owners, links and times, kept in RADOS."""

import contextlib
import os
import stat
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
import rados

from radosmount.lab import Lab
from tests.mount.mounting import mounted
from tests.support.cluster import SHARED_POOL

SOURCE = Path(sysconfig.get_path("stdlib")) / "json"
XATTR = "radosmount.posix"
NS = 1_577_934_245_678_912_345


def run(*words: object) -> str:
    result = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=100)
    assert result.returncode == 0, f"{words}: {result}"
    return result.stdout


@pytest.fixture
def place(namespace: str) -> str:
    return f"ceph:{SHARED_POOL}/{namespace}"


@pytest.fixture
def posix(lab: Lab, place: str) -> Iterator[Path]:
    with mounted(lab, place, "posix,allow_other") as mount:
        yield mount.path


@pytest.fixture
def objects(cluster: rados.Rados, namespace: str) -> Iterator[rados.Ioctx]:
    with contextlib.closing(cluster.open_ioctx(SHARED_POOL)) as ioctx:
        ioctx.set_namespace(namespace)
        yield ioctx


def kept_of(objects: rados.Ioctx, name: str) -> bytes:
    return dict(objects.get_xattrs(name))[XATTR]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with odd modes, owners, times, links, and an empty directory."""
    source = tmp_path / "source"
    run("cp", "-r", SOURCE, source)
    (source / "empty" / "deeper").mkdir(parents=True)
    (source / "link").symlink_to("decoder.py")
    (source / "dangling").symlink_to("../no where/é")
    for number, path in enumerate(sorted(source.rglob("*"))):
        os.lchown(path, 1000 + number, 2000 + number)
        if not path.is_symlink():
            path.chmod(0o600 | number % 0o200)
        os.utime(path, ns=(NS + number, NS + number), follow_symlinks=False)
    return source


def differences(a: Path, b: Path) -> str:
    return run("rsync", "-ain", "--delete", "--checksum", f"{a}/", f"{b}/")


@pytest.mark.parametrize("program", ["rsync -a", "cp -a", "tar"])
def test_there_and_back(
    lab: Lab, place: str, posix: Path, source: Path, tmp_path: Path, program: str
) -> None:
    """With `-o posix` modes, owners, symbolic links and the mtime's nanoseconds are kept in the
    RADOS xattr `radosmount.posix`, stored in the same operation as the content.
    What was copied in comes out the same, also of another mount."""
    copy(program, source, posix / "tree")
    assert differences(source, posix / "tree") == ""
    with mounted(lab, place, "posix") as other:
        copy(program, other.path / "tree", tmp_path / "back")
        assert differences(source, other.path / "tree") == ""
    assert differences(source, tmp_path / "back") == ""


def copy(program: str, source: Path, target: Path) -> None:
    match program:
        case "rsync -a":
            run("rsync", "-a", f"{source}/", f"{target}/")
        case "cp -a":
            run("cp", "-a", source, target)
        case _:
            target.mkdir()
            run("sh", "-c", f"tar -C '{source}' -cf - . | tar -C '{target}' -xpf -")


def test_what_is_kept_is_readable(posix: Path, objects: rados.Ioctx) -> None:
    """`rados getxattr` shows it as text."""
    (posix / "f").write_bytes(b"content")
    (posix / "f").chmod(0o640)
    os.chown(posix / "f", 1000, 100)
    os.utime(posix / "f", ns=(NS, NS))
    kept = b"mode=100640 uid=1000 gid=100 mtime=1577934245.678912345"
    assert kept_of(objects, "f") == kept
    (posix / "l").symlink_to("a target")
    assert kept_of(objects, "l").endswith(b" target=a target")
    assert os.listxattr(posix / "f") == []
    assert os.getxattr(posix / "f", f"user.{XATTR}") == kept


def test_foreign_objects(lab: Lab, place: str, objects: rados.Ioctx) -> None:
    """An object without `radosmount.posix` looks as the mount says."""
    objects.write_full("f", b"content")
    objects.write_full("broken", b"content")
    objects.set_xattr("broken", XATTR, b"mode=777777777777 uid=-1 \xff")
    with mounted(lab, place, "posix,uid=7,gid=8,fmode=600") as mount:
        for name in ("f", "broken"):
            found = (mount.path / name).stat()
            assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFREG | 0o600, 7, 8)
        (mount.path / "f").chmod(0o644)
        found = (mount.path / "f").stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFREG | 0o644, 7, 8)
    assert objects.read("f") == b"content"


def test_who_writes_without_knowing(posix: Path, objects: rados.Ioctx) -> None:
    """Whoever writes an object with another client ends its nanoseconds, and a symbolic link."""
    (posix / "f").write_bytes(b"content")
    os.utime(posix / "f", ns=(NS, NS))
    (posix / "l").symlink_to("f")
    for name in ("f", "l"):
        objects.write_full(name, b"theirs")
    assert (posix / "f").stat().st_mtime_ns % 10**9 == 0
    assert not (posix / "l").is_symlink()
    assert (posix / "l").read_bytes() == b"theirs"


def test_directories(posix: Path, objects: rados.Ioctx) -> None:
    """A directory's mtime, and with `-o posix` its mode and owner, are those of its marker `d/`,
    which is made where there is none."""
    objects.write_full("implied/f", b"")
    (posix / "d").mkdir()
    for name in ("d", "implied"):
        (posix / name).chmod(0o2750)
        os.chown(posix / name, 1000, 100)
        os.utime(posix / name, ns=(NS, NS))
        found = (posix / name).stat()
        assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFDIR | 0o2750, 1000, 100)
        assert found.st_mtime_ns == NS
        assert kept_of(objects, f"{name}/").startswith(b"mode=42750 uid=1000 gid=100")
    (posix / "d" / "heir").mkdir()
    (posix / "d" / "file").touch()
    assert (posix / "d" / "heir").stat().st_mode & stat.S_ISGID
    assert (posix / "d" / "heir").stat().st_gid == (posix / "d" / "file").stat().st_gid == 100
    assert (posix / "d").stat().st_mtime_ns > NS


def test_links_count_directories(posix: Path) -> None:
    """A directory's link count is two, and one for each directory in it."""
    for name in ("a", "b", "c"):
        (posix / "d" / name).mkdir(parents=True)
    (posix / "d" / "file").touch()
    assert (posix / "d").stat().st_nlink == 5
    (posix / "d" / "a").rmdir()
    assert (posix / "d").stat().st_nlink == 4


def test_permissions_are_checked(posix: Path) -> None:
    """By the kernel, for every user; a write by another than root ends the setuid bit."""
    (posix / "secret").write_bytes(b"content")
    (posix / "secret").chmod(0o600)
    (posix / "program").write_bytes(b"content")
    (posix / "program").chmod(0o4777)
    posix.parent.chmod(0o755)
    script = f"""
import os
os.setgid(12345); os.setuid(12345)
try:
    open({str(posix / "secret")!r})
except PermissionError:
    print("refused")
with open({str(posix / "program")!r}, "ab") as opened:
    opened.write(b" and more")
try:
    os.chmod({str(posix / "program")!r}, 0)
except PermissionError:
    print("refused")
"""
    assert run("python3", "-c", script) == "refused\nrefused\n"
    assert stat.S_IMODE((posix / "program").stat().st_mode) == 0o777
    assert (posix / "program").read_bytes() == b"content and more"


@pytest.mark.parametrize("driver", ["native", "binding"])
def test_a_rename_keeps_all(lab: Lab, place: str, objects: rados.Ioctx, driver: str) -> None:
    """Also where the source has to be read, as one with other xattrs."""
    with mounted(lab, place, f"posix,driver={driver}") as mount:
        source, target = mount.path / "source", mount.path / "target"
        source.write_bytes(b"content")
        source.chmod(0o600)
        os.chown(source, 1000, 100)
        os.setxattr(source, "user.mine", b"value")
        source.rename(target)
        found = target.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, 1000, 100)
        assert os.getxattr(target, "user.mine") == b"value"
    assert dict(objects.get_xattrs("target"))["mine"] == b"value"


def test_links_are_listed_as_links(posix: Path) -> None:
    """find(1) goes by what the listing says; a rename and an unlink take the link itself."""
    (posix / "d").mkdir()
    (posix / "d" / "f").write_bytes(b"")
    (posix / "d" / "l").symlink_to("f")
    (posix / "up").symlink_to("d")
    found = run("find", posix, "-type", "l", "-printf", "%P\\n")
    assert sorted(found.split()) == ["d/l", "up"]
    assert (posix / "up" / "l").resolve() == (posix / "d" / "f").resolve()
    os.rename(posix / "d" / "l", posix / "renamed")
    assert os.readlink(posix / "renamed") == "f"
    os.unlink(posix / "renamed")
    assert (posix / "d" / "f").exists()


def test_by_the_binding(lab: Lab, place: str, source: Path, objects: rados.Ioctx) -> None:
    """python3-rados reads and writes the same, with a call more."""
    with mounted(lab, place, "posix,driver=binding") as mount:
        copy("rsync -a", source, mount.path / "tree")
        assert differences(source, mount.path / "tree") == ""
        (mount.path / "l").symlink_to("target")
        assert kept_of(objects, "l").endswith(b" target=target")
        assert (mount.path / "l").is_symlink()
