"""What could not be stored: into the spool, and from there into the store."""
# ruff: noqa: ASYNC240 - a few small local files

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from radosmount.app import make_spool
from radosmount.cache.file import CachedFile
from radosmount.cache.spool import Spool
from radosmount.cache.spoolfile import Spooled, decode
from radosmount.config import CacheConfig, Config, ViewConfig
from radosmount.errors import PermissionDenied, SpoolError, TimedOut
from radosmount.restore import Manner, restore_file
from radosmount.store.posix import NS_PER_S
from tests.support.stores import POOL_ID, CacheBench, is_apply, key_of

pytestmark = pytest.mark.expects_log("is not stored|could not be stored|is not fit")

FORCED = Manner(is_forced=True)
NOBODY = 65534


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


@pytest.fixture
def spooling(nursery: trio.Nursery, directory: Path) -> CacheBench:
    return CacheBench(nursery, spool_directory=str(directory))


def complaint(directory: Path) -> str | None:
    return Spool(str(directory), "ceph", "radosmount restore").complaint()


async def give_up(bench: CacheBench, file: CachedFile) -> None:
    """A flush fails for good when the last writer has gone."""
    assert bench.spooler is not None
    file.writer_count = 0
    bench.store.fail_next(PermissionDenied("no caps"), is_apply)
    await bench.cache.flush(file)
    await bench.spooler.settle()


def only_file(directory: Path) -> str:
    [path] = directory.iterdir()
    return str(path)


async def test_a_new_file(spooling: CacheBench, directory: Path) -> None:
    """A new file goes to the spool, with all that it is, and can be restored from there."""
    file = spooling.new_file()
    spooling.cache.stage_xattr(file, b"kind", b"\xff\0")
    await spooling.cache.write(file, 2, b"content")
    spooling.cache.set_mtime(file, 1_234_567_890 * NS_PER_S)
    await give_up(spooling, file)
    assert file.is_clean
    assert spooling.cache.held_bytes == 0
    path = only_file(directory)
    await restore_file(spooling.store, path, Manner())
    assert spooling.stored() == b"\0\0content"
    assert spooling.stat().mtime_s == 1_234_567_890
    assert spooling.store.xattrs_now(key_of(b"f")) == {b"kind": b"\xff\0"}
    assert not os.path.exists(path)


async def test_overwritten_parts(spooling: CacheBench, directory: Path) -> None:
    """Of an object that was there, the parts that were written are kept and restored."""
    file = spooling.stored_file(b"0123456789")
    await spooling.cache.write(file, 2, b"AB")
    await spooling.cache.write(file, 7, b"CDEFG")
    await give_up(spooling, file)
    assert (file.size, spooling.stored()) == (10, b"0123456789")
    await restore_file(spooling.store, only_file(directory), Manner())
    assert spooling.stored() == b"01AB456CDEFG"


async def test_truncated(spooling: CacheBench, directory: Path) -> None:
    file = spooling.stored_file(b"0123456789")
    spooling.cache.truncate(file, 4)
    await spooling.cache.write(file, 6, b"x")
    await give_up(spooling, file)
    await restore_file(spooling.store, only_file(directory), Manner())
    assert spooling.stored() == b"0123\0\0x"


async def test_appended(spooling: CacheBench, directory: Path) -> None:
    """What was appended is put behind what others have appended since."""
    file = spooling.stored_file(b"begin")
    await spooling.cache.write(file, 0, b"+ours", is_append=True)
    await give_up(spooling, file)
    spooling.store.put_now(file.key, b"begin+theirs")
    await restore_file(spooling.store, only_file(directory), Manner())
    assert spooling.stored() == b"begin+theirs+ours"


async def test_mtime_alone(spooling: CacheBench, directory: Path) -> None:
    file = spooling.stored_file(b"content")
    spooling.cache.set_mtime(file, 1_234_567_890 * NS_PER_S)
    await give_up(spooling, file)
    await restore_file(spooling.store, only_file(directory), Manner())
    assert (spooling.stored(), spooling.stat().mtime_s) == (b"content", 1_234_567_890)


async def test_nothing_is_overwritten(spooling: CacheBench, directory: Path) -> None:
    """Restoring refuses where the object was changed since, and says what to do."""
    file = spooling.stored_file(b"0123456789")
    await spooling.cache.write(file, 2, b"AB")
    await give_up(spooling, file)
    path = only_file(directory)
    spooling.store.put_now(file.key, b"theirs, and longer")
    with pytest.raises(SpoolError, match="'f': it was changed or removed since; --force writes"):
        await restore_file(spooling.store, path, Manner())
    with pytest.raises(SpoolError, match="only parts of an object"):
        await restore_file(spooling.store, path, Manner(other_name=b"g"))
    assert spooling.stored() == b"theirs, and longer"
    await restore_file(spooling.store, path, FORCED)
    assert spooling.stored() == b"thABrs, and longer"


async def test_a_new_file_that_others_have_made(spooling: CacheBench, directory: Path) -> None:
    file = spooling.new_file()
    await spooling.cache.write(file, 0, b"ours")
    await give_up(spooling, file)
    path = only_file(directory)
    spooling.store.put_now(file.key, b"theirs, longer")
    with pytest.raises(SpoolError, match=r"there is such an object by now.*--as NAME"):
        await restore_file(spooling.store, path, Manner())
    await restore_file(spooling.store, path, Manner(keeps_files=True, other_name=b"g"))
    assert (spooling.stored(), spooling.stored(b"g")) == (b"theirs, longer", b"ours")
    spooling.store.put_now(key_of(b"g"), b"made meanwhile")
    with pytest.raises(SpoolError, match="'g': there is such an object"):
        await restore_file(spooling.store, path, Manner(other_name=b"g"))
    await restore_file(spooling.store, path, FORCED)
    assert spooling.stored() == b"ours"


async def test_parts_of_an_object_that_is_gone(spooling: CacheBench, directory: Path) -> None:
    """Even by force: holes are not what was there."""
    file = spooling.stored_file(b"0123456789")
    await spooling.cache.write(file, 2, b"AB")
    await give_up(spooling, file)
    path = only_file(directory)
    spooling.store.remove_now(file.key)
    for manner in (Manner(), FORCED):
        with pytest.raises(SpoolError, match=r"removed since|does not exist any more"):
            await restore_file(spooling.store, path, manner)
    assert spooling.stored() is None
    assert os.path.exists(path)


async def test_a_pool_that_is_gone(spooling: CacheBench, directory: Path) -> None:
    """The pool's name is known though it is gone; one of the same name is taken by force."""
    file = spooling.new_file()
    await spooling.cache.write(file, 0, b"ours")
    spooling.store.remove_pool(POOL_ID)
    file.writer_count = 0
    await spooling.cache.flush(file)
    assert spooling.spooler is not None
    await spooling.spooler.settle()
    path = only_file(directory)
    with pytest.raises(SpoolError, match=r"its pool 'assets' \(id 1\) is not in this cluster"):
        await restore_file(spooling.store, path, FORCED)
    new_id = spooling.store.add_pool(b"assets")
    with pytest.raises(SpoolError, match="made anew"):
        await restore_file(spooling.store, path, Manner())
    await restore_file(spooling.store, path, FORCED)
    assert spooling.store.read_now(key_of(b"f")._replace(pool_id=new_id)) == b"ours"


async def test_another_cluster(spooling: CacheBench, directory: Path) -> None:
    """Its pools have the same numbers and names: nothing is written there, unless it is asked
    for."""
    file = spooling.new_file()
    await spooling.cache.write(file, 0, b"content")
    await give_up(spooling, file)
    path = only_file(directory)
    spooling.store.cluster_id = "another"
    with pytest.raises(SpoolError, match="is of another cluster"):
        await restore_file(spooling.store, path, Manner())
    assert spooling.stored() is None
    await restore_file(spooling.store, path, FORCED)
    assert spooling.stored() == b"content"


async def test_restoring_that_fails(spooling: CacheBench, directory: Path) -> None:
    """A file that was not restored stays; the next try knows what the first has done."""
    file = spooling.stored_file(b"begin")
    await spooling.cache.write(file, 0, b"BE")
    await give_up(spooling, file)
    path = only_file(directory)
    spooling.store.fail_next(TimedOut("lost"), is_apply, applied=True)
    with pytest.raises(SpoolError, match="is not written: lost"):
        await restore_file(spooling.store, path, Manner())
    await restore_file(spooling.store, path, Manner())
    assert spooling.stored() == b"BEgin"


async def test_restoring_an_append_that_fails(spooling: CacheBench, directory: Path) -> None:
    """What went behind a foreign append, though nobody heard, does not go there twice."""
    file = spooling.stored_file(b"begin")
    await spooling.cache.write(file, 0, b"+ours", is_append=True)
    await give_up(spooling, file)
    spooling.store.put_now(file.key, b"begin+theirs")
    path = only_file(directory)
    spooling.store.fail_next(TimedOut("lost"), is_apply, skip_count=1, applied=True)
    with pytest.raises(SpoolError, match="is not written: lost"):
        await restore_file(spooling.store, path, Manner())
    assert spooling.stored() == b"begin+theirs+ours"
    await restore_file(spooling.store, path, Manner())
    assert spooling.stored() == b"begin+theirs+ours"


async def test_restoring_to_a_disk_that_is_full(
    spooling: CacheBench, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, spooled: Spooled) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("radosmount.restore.rewrite", refuse)
    file = spooling.new_file()
    await spooling.cache.write(file, 0, b"ours")
    await give_up(spooling, file)
    spooling.store.fail_next(TimedOut("lost"), is_apply)
    path = only_file(directory)
    with pytest.raises(SpoolError, match=r"perhaps written in part \(lost\).*No space left"):
        await restore_file(spooling.store, path, Manner())
    await restore_file(spooling.store, path, Manner())
    assert spooling.stored() == b"ours"


async def test_restoring_that_fails_half_way(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    monkeypatch.setattr("radosmount.cache.extents.BLOCK_BYTES", 4)
    monkeypatch.setattr("radosmount.cache.plan.OPERATION_BYTES_MAX", 4)
    bench = CacheBench(nursery, spool_directory=str(directory))
    file = bench.stored_file(b"0")
    await bench.cache.write(file, 1, b"123456789abcdef")
    await give_up(bench, file)
    path = only_file(directory)
    bench.store.fail_next(PermissionDenied("no"), is_apply, skip_count=2)
    with pytest.raises(SpoolError, match="in part only, try again"):
        await restore_file(bench.store, path, Manner())
    assert bench.stored() != b"0123456789abcdef"
    await restore_file(bench.store, path, Manner())
    assert bench.stored() == b"0123456789abcdef"


async def test_what_is_on_disk(
    spooling: CacheBench, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the owner reads it; the log names the file, the reason, and the command."""
    file = spooling.new_file(b"../x")
    await spooling.cache.write(file, 0, b"content")
    await give_up(spooling, file)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    path = only_file(directory)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert os.stat(path).st_nlink == 1
    line = caplog.records[-1].getMessage()
    assert line.startswith("b'../x': 7 bytes could not be stored, and are kept in the spool: no")
    assert line.endswith(f"radosmount restore {path}")


async def test_the_same_name_again(spooling: CacheBench, directory: Path) -> None:
    """No spool file replaces another one, nor a half-written one of a crash."""
    path = Path(Spool(str(directory), "ceph", "").write(await a_spooled(spooling, directory)))
    first, half = path.read_bytes(), path.with_name(path.name.replace("-1.spool", "-2.part"))
    half.write_bytes(b"half")
    spool = Spool(str(directory), "ceph", "")
    assert Path(spool.write(decode(first))).name == path.name.replace("-1.spool", "-3.spool")
    assert (path.read_bytes(), half.read_bytes()) == (first, b"half")
    assert len(list(directory.iterdir())) == 3


async def a_spooled(bench: CacheBench, directory: Path) -> Spooled:
    file = bench.new_file()
    await bench.cache.write(file, 0, b"content")
    await give_up(bench, file)
    path = Path(only_file(directory))
    spooled = decode(path.read_bytes())
    path.unlink()
    return replace(spooled, time_s=1_600_000_000)


async def test_no_place_for_the_spool(
    nursery: trio.Nursery, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where it cannot be written the log says what is lost, and the mount lives on."""
    (tmp_path / "file").touch()
    bench = CacheBench(nursery, spool_directory=str(tmp_path / "file" / "spool"))
    file = bench.new_file()
    await bench.cache.write(file, 0, b"content")
    await give_up(bench, file)
    line = caplog.records[-1].getMessage()
    assert line.startswith("b'f': 7 bytes could not be stored and are lost: no caps; nor spooled: ")
    assert "Not a directory" in line
    assert bench.cache.held_bytes == 0
    assert file.is_clean


async def test_a_bug_in_spooling(
    spooling: CacheBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does anything unknown end the mount."""
    monkeypatch.setattr("radosmount.cache.spool.encode", lambda spooled: 1 / 0)
    file = spooling.new_file()
    await spooling.cache.write(file, 0, b"content")
    await give_up(spooling, file)
    assert "are lost" in caplog.records[-1].getMessage()
    assert spooling.cache.held_bytes == 0


async def test_bytes_count_until_they_are_on_disk(
    spooling: CacheBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has the store's bytes at once; the spool's take room until they are written."""
    import threading

    may_write = threading.Event()
    write = Spool.write

    def wait_and_write(self: Spool, spooled: object) -> str:
        may_write.wait(10)
        return write(self, spooled)  # type: ignore[arg-type]

    monkeypatch.setattr(Spool, "write", wait_and_write)
    file = spooling.stored_file(b"theirs")
    await spooling.cache.write(file, 0, b"our")
    file.writer_count = 0
    spooling.store.fail_next(PermissionDenied("no"), is_apply)
    await spooling.cache.flush(file)
    assert file.is_clean
    assert bytes(await spooling.cache.read(file, 0, 10)) == b"theirs"
    assert spooling.cache.held_bytes == 3
    may_write.set()
    assert spooling.spooler is not None
    await spooling.spooler.settle()
    assert spooling.cache.held_bytes == 0


@contextlib.contextmanager
def as_user(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_is_wrong_with_a_directory(tmp_path: Path) -> None:
    """What would keep bytes from the spool, or show them, is known before there are any."""
    fitting, shared = tmp_path / "fitting", tmp_path / "shared"
    fitting.mkdir(0o700)
    shared.mkdir(0o755)
    for path in (fitting, fitting / "new" / "er", tmp_path / "new"):
        assert complaint(path) is None
    assert complaint(Path("/dev/null/spool")) == "/dev/null is no directory"
    assert (
        complaint(shared)
        == "others may look into it, its mode is 755: make it 700, or name another"
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes others")
def test_a_directory_of_another_user() -> None:
    """Whether it cannot be written, not have one made in it, not be looked at; or is theirs."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        closed, sealed, theirs = (Path(folder, name) for name in ("closed", "sealed", "theirs"))
        closed.mkdir(0o755)
        sealed.mkdir(0o700)
        (sealed / "inside").mkdir()
        theirs.mkdir(0o700)
        os.chown(theirs, NOBODY, NOBODY)
        assert complaint(theirs) == f"it belongs to user {NOBODY}"
        with as_user(NOBODY):
            assert complaint(theirs) is None
            assert complaint(closed) == f"{closed} cannot be written"
            assert complaint(closed / "new" / "er") == f"{closed} cannot be written"
            assert complaint(sealed / "inside") == f"{sealed} cannot be written"


@pytest.mark.parametrize("is_read_only", [False, True])
def test_a_mount_tells_of_it(caplog: pytest.LogCaptureFixture, is_read_only: bool) -> None:
    """One warning at the mount, where anything may have to be spooled."""
    config = Config(
        cache=CacheConfig(spool_directory="/dev/null/spool"),
        view=ViewConfig(is_read_only=is_read_only),
    )
    make_spool(config)
    told = ["the spool /dev/null/spool is not fit: /dev/null is no directory"]
    assert [record.getMessage() for record in caplog.records] == ([] if is_read_only else told)


async def test_the_end(directory: Path) -> None:
    """At the end all goes to the spool that the store does not have: what no flush has begun
    with, and what is under way. A cancelled nursery does not keep it from the disk."""
    async with trio.open_nursery() as nursery:
        bench = CacheBench(nursery, spool_directory=str(directory))
        waiting, under_way = bench.new_file(b"waiting"), bench.new_file(b"under way")
        await bench.cache.write(waiting, 0, b"one")
        await bench.cache.write(under_way, 0, b"two")
        with bench.store.paused():
            nursery.start_soon(bench.cache.flush, under_way)
            await trio.testing.wait_all_tasks_blocked()
            await bench.cache.write(under_way, 3, b"three")
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await bench.cache.spool_unstored()
                await bench.cache.spool_unstored()
    assert len(list(directory.iterdir())) == 2
    assert bench.stored(b"under way") == b"two"  # after all
    for path in directory.iterdir():
        await restore_file(bench.store, str(path), Manner())
    assert (bench.stored(b"waiting"), bench.stored(b"under way")) == (b"one", b"twothree")


@pytest.mark.parametrize("path", ["/dev/null", "/etc/hostname"])
async def test_no_spool_file(bench: CacheBench, path: str) -> None:
    with pytest.raises(SpoolError, match="is no spool file"):
        await restore_file(bench.store, path, Manner())
