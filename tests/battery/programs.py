"""Programs that check themselves, for longer than a test may take: a database, a stress suite, a
compiler's output, fio, git."""

import contextlib
import hashlib
import math
import os
import re
import shutil
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.battery.row import Arena, Row, RowFailed
from tests.mount.mounting import Mount

COMMAND_LIMIT_S: Final = 1800
OPTIONS: Final = "posix,allow_other"

POSTGRES_PROGRAMS: Final = Path("/usr/lib/postgresql")
POSTGRES_USER: Final = "postgres"
POSTGRES_SETTINGS: Final = (
    "listen_addresses=",
    "shared_buffers=32MB",
    "max_wal_size=128MB",
    "checkpoint_timeout=30s",
    "full_page_writes=on",
)
POSTGRES_START_S: Final = 300.0
CHILDREN_END_S: Final = 10.0
BENCH_CLIENTS: Final = 4
KILL_AFTER_S: Final = (2.0, 8.0)
SUMS: Final = """
    SELECT (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts),
           (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers),
           (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches),
           (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
           (SELECT count(*) FROM pgbench_history)
"""

# Those of stress-ng's file stressors that can work. Not: link (an object has one name), inotify
# (renames a directory), fallocate and fpunch (RADOS reserves no space), fiemap (no file system of
# FUSE has it).
STRESSORS: Final = (
    *(
        "access",
        "aio",
        "chdir",
        "chmod",
        "chown",
        "copy-file",
        "dentry",
        "dir",
        "dirdeep",
        "dirmany",
    ),
    *("dnotify", "dup", "fcntl", "filename", "flock", "fstat", "getdent", "hdd", "io", "iomix"),
    *("lease", "locka", "lockf", "lockofd", "mknod", "open", "readahead", "rename", "revio"),
    *("seek", "sendfile", "splice", "symlink", "sync-file", "touch", "utime", "xattr"),
)
# Otherwise they write a GiB, and an object has at most 128 MiB.
BYTES_OF: Final = {
    "copy-file": "--copy-file-bytes=128m",
    "hdd": "--hdd-bytes=32m",
    "iomix": "--iomix-bytes=32m",
    "readahead": "--readahead-bytes=32m",
    "revio": "--revio-bytes=32m",
    "seek": "--seek-size=32m",
    "sync-file": "--sync-file-bytes=32m",
}


def run(
    *words: object,
    cwd: Path | None = None,
    user: str | None = None,
    env: dict[str, str] | None = None,
) -> str:
    """Its output. Raises: RowFailed, unless it ends with 0."""
    command = list(map(str, words))
    if user:
        command = ["runuser", "-u", user, "--", *command]
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        cwd=cwd,
        env={**os.environ, **(env or {})},
        timeout=COMMAND_LIMIT_S,
    )
    if result.returncode:
        raise RowFailed(f"{command} ended with {result.returncode}:\n{result.stdout[-8000:]}")
    return result.stdout


class Postgres:
    """A server whose data is on a mount; its socket and log are not."""

    def __init__(self, data: Path, beside: Path) -> None:
        self.data = data
        self._beside = beside
        self._bin = max(POSTGRES_PROGRAMS.iterdir(), key=lambda path: float(path.name)) / "bin"
        self._process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        for directory in (self.data, self._beside):
            directory.mkdir(mode=0o700)
            shutil.chown(directory, POSTGRES_USER, POSTGRES_USER)
        self.run("initdb", "-k", "-A", "trust", "-D", self.data)

    def run(self, program: str, *words: object) -> str:
        place = {"PGHOST": str(self._beside), "PGDATABASE": POSTGRES_USER}
        return run(self._bin / program, *words, cwd=self._beside, user=POSTGRES_USER, env=place)

    def start(self) -> None:
        """Returns when it has recovered, and answers."""
        command = ["runuser", "-u", POSTGRES_USER, "--", str(self._bin / "postgres")]
        command += ["-D", str(self.data), "-k", str(self._beside)]
        for setting in POSTGRES_SETTINGS:
            command += ["-c", setting]
        with (self._beside / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._beside)
        deadline_s = time.monotonic() + POSTGRES_START_S
        while True:
            with contextlib.suppress(RowFailed):
                self.run("psql", "-c", "SELECT 1")
                return
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RowFailed(f"PostgreSQL does not start:\n{self.log()[-8000:]}")
            time.sleep(0.2)

    def postmaster(self) -> int:
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def kill(self, pid: int) -> None:
        """kill -9 of it; its children notice, and end. But one that waits for a lock, which another
        had when the mount went from under it, waits for ever: as after a crash, none is left."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self._wait(CHILDREN_END_S)

    def stop(self) -> None:
        self.run("pg_ctl", "stop", "-m", "fast", "-D", self.data)
        self._wait()

    def _wait(self, kill_after_s: float = math.inf) -> None:
        if self._process is not None:
            self._process.wait(60)
        begin_s = time.monotonic()
        while left := users_of(self.data):
            if time.monotonic() > begin_s + 60:
                raise RowFailed("processes of PostgreSQL do not end")
            if time.monotonic() > begin_s + kill_after_s:
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)

    def end(self) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, ValueError, IndexError):
                os.kill(self.postmaster(), signal.SIGQUIT)
            self._process.terminate()
            self._process.wait(60)

    def log(self) -> str:
        return (self._beside / "log").read_text(errors="backslashreplace")

    @contextlib.contextmanager
    def being_used(self, seconds: int) -> Iterator[Path]:
        """Transactions, each of which pgbench logs beside once it is committed."""
        place = {**os.environ, "PGHOST": str(self._beside), "PGDATABASE": POSTGRES_USER}
        prefix = self._beside / "committed"
        for path in self._beside.glob("committed*"):
            path.unlink()
        command = ["runuser", "-u", POSTGRES_USER, "--", str(self._bin / "pgbench"), "-n"]
        command += ["-c", str(BENCH_CLIENTS), "-j", "2", "-T", str(seconds), "-l"]
        command += [f"--log-prefix={prefix}"]
        with subprocess.Popen(
            command,
            env=place,
            cwd=self._beside,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as bench:
            yield prefix
            bench.wait(60 + seconds)

    def committed(self) -> int:
        """Of the last `being_used`."""
        paths = self._beside.glob("committed*")
        return sum(path.read_bytes().count(b"\n") for path in paths)

    def check(self, committed: int) -> int:
        """All sums agree, nothing that was committed is missing, no page and no index is damaged.
        Returns how many transactions there are."""
        row = self.run("psql", "-At", "-F", " ", "-c", SUMS).split()
        accounts, tellers, branches, deltas, count = map(int, row)
        if not accounts == tellers == branches == deltas:
            raise RowFailed(f"the balances differ: {row}")
        if not committed <= count <= committed + BENCH_CLIENTS:
            raise RowFailed(f"{committed} transactions were committed, and there are {count}")
        self.run("pg_amcheck", "--heapallindexed", "--install-missing", "-j", "2")
        return count


def users_of(directory: Path) -> list[int]:
    """The processes whose working directory is there."""
    found = []
    processes = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
    for link in (path / "cwd" for path in processes):  # glob would follow it, into a dead mount
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(str(directory)):
                found.append(int(link.parent.name))
    return found


def open_for_others(mount: Mount) -> None:
    """Its folder is only root's, as temporary ones are."""
    for path in (mount.folder, mount.folder.parent):
        path.chmod(0o755)


def postgres(arena: Arena) -> None:
    mount = arena.make_mount()
    mount.start(arena.lab, arena.source, OPTIONS)
    open_for_others(mount)
    server = Postgres(mount.path / "pgdata", arena.folder / "beside")
    server.create()
    try:
        server.start()
        server.run("pgbench", "-i", "-q", "-s", arena.sizes["scale"])
        with server.being_used(arena.sizes["seconds"]):
            pass
        count = server.check(server.committed())
        for number in range(arena.sizes["kills"] * 2):
            pid = server.postmaster()
            with server.being_used(60):
                time.sleep(arena.random.uniform(*KILL_AFTER_S))
                if number % 2:
                    mount.kill()
                server.kill(pid)
            committed = server.committed()
            if not committed:
                raise RowFailed("nothing was committed before the kill")
            arena.figures.faults += 1
            if number % 2:
                mount.start(arena.lab, arena.source, OPTIONS)
            server.start()
            count = server.check(count + committed)
        server.stop()
        found = server.run("pg_checksums", "--check", "-D", server.data)
        if not re.search(r"Bad checksums: +0\n", found):
            raise RowFailed(found)
        arena.figures.verified += count
        arena.figures.verified_bytes += sum(
            path.stat().st_size for path in server.data.rglob("*") if path.is_file()
        )
        arena.figures.more["transactions"] = count
    except BaseException:
        arena.note(server.log()[-4000:])
        raise
    finally:
        server.end()
    mount.stop()
    mount.check_log()


def stress(arena: Arena) -> None:
    """Each of them alone, with its own verification."""
    with arena.mounted(arena.source, OPTIONS) as mount:
        open_for_others(mount)
        for name in STRESSORS:
            directory = mount.path / name
            directory.mkdir()
            words = ["stress-ng", f"--{name}", 2, "--verify", "--timeout", arena.sizes["seconds"]]
            words += [BYTES_OF[name]] if name in BYTES_OF else []
            found = run(*words, "--temp-path", directory, cwd=arena.folder)
            if re.search(r"\bfail(ed)?:(?! 0)|skipped: [1-9]", found):
                raise RowFailed(f"{name}: {found}")
            arena.figures.verified += 1
            if left := list(directory.iterdir()):
                raise RowFailed(f"{name} has left {left}")


COMPILED: Final = (b"\x7fELF", b"!<arch>\n")
SOURCES: Final = {
    "zlib": "./configure && make -j2",
    "lz4": "make -j2",
}


def build(arena: Arena) -> None:
    """Debian's sources, built on the mount, twice, and on the local disk: the same bytes."""
    local = arena.folder / "local"
    local.mkdir()
    fetch_sources(arena.folder / "apt", local)
    with arena.mounted(arena.source, f"{OPTIONS},fmode=755") as mount:
        for name, command in SOURCES.items():
            [source] = local.glob(f"{name}-*/")
            turns = []
            for turn in range(2):
                place = mount.path / f"{turn}" / source.name
                place.parent.mkdir(exist_ok=True)
                run("cp", "-a", source, place)
                turns.append(place)
            for place in (*turns, source):
                run("sh", "-c", command, cwd=place, env={"CFLAGS": "-O2"})
            expected = digests(source)
            for place in turns:
                if digests(place) != expected:
                    differing = set(digests(place).items()) ^ set(expected.items())
                    raise RowFailed(f"{place}: other results than on the local disk: {differing}")
                arena.figures.verified += len(expected)
                arena.figures.verified_bytes += sum(
                    (place / path).stat().st_size for path in expected
                )


def fetch_sources(folder: Path, into: Path) -> None:
    """By apt, whose own settings stay as they are."""
    (folder / "lists" / "partial").mkdir(parents=True)
    release = re.findall(r"(?m)^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text())
    sources = folder / "sources.list"
    sources.write_text(f"deb-src http://deb.debian.org/debian {release[0]} main\n")
    apt = ["apt-get", "-q", "-o", f"Dir::Etc::SourceList={sources}"]
    apt += ["-o", "Dir::Etc::SourceParts=-", "-o", f"Dir::State::Lists={folder}/lists"]
    apt += ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
    apt += ["-o", "APT::Sandbox::User=root"]
    run(*apt, "update", cwd=into)
    run(*apt, "source", *SOURCES, cwd=into)


def digests(directory: Path) -> dict[str, str]:
    """Of what compilers make: objects, archives, libraries and programs."""
    found = {}
    for path in directory.rglob("*"):
        if path.is_file() and (content := path.read_bytes()).startswith(COMPILED):
            found[str(path.relative_to(directory))] = hashlib.sha256(content).hexdigest()
    if not found:
        raise RowFailed(f"nothing was built in {directory}")
    return found


def fio_verify(arena: Arena) -> None:
    """Random writes for long, then all of them read back on another mount."""
    size_mib = arena.sizes["mib"]
    fio: list[object] = ["fio", "--name=job", "--rw=randwrite", "--bsrange=512-1m", "--numjobs=2"]
    fio += [f"--size={size_mib}m", "--nrfiles=8", "--verify=crc32c", "--verify_fatal=1"]
    fio += ["--fsync_on_close=1", "--overwrite=1"]
    with arena.mounted(arena.source) as mount, arena.mounted(arena.source) as other:
        for turn in range(arena.sizes["turns"]):
            engine = ("psync", "mmap", "libaio")[turn % 3]
            words = [*fio, f"--ioengine={engine}", f"--randseed={arena.random.getrandbits(31)}"]
            run(*words, f"--directory={mount.path}", cwd=arena.folder)
            run(*words, f"--directory={other.path}", "--verify_only", cwd=arena.folder)
            arena.figures.verified += 1
            arena.figures.verified_bytes += 2 * size_mib << 20


def git(arena: Arena) -> None:
    """Clone, gc and fsck of a repository with much in it and many commits."""
    origin = arena.folder / "origin"
    origin.mkdir()
    stdlib = Path(sysconfig.get_path("stdlib"))
    commands = [
        "git init -q",
        "git config user.email battery@localhost",
        "git config user.name battery",
        f"cp -r {stdlib} .",
        "git add -A && git commit -q -m 0",
    ]
    run("sh", "-c", " && ".join(commands), cwd=origin)
    files = sorted(path for path in origin.rglob("*.py") if ".git" not in path.parts)
    for number in range(arena.sizes["commits"]):
        for path in arena.random.sample(files, 20):
            with path.open("ab") as file:
                file.write(b"# %d\n" % arena.random.getrandbits(64))
        run("git", "commit", "-q", "-a", "-m", number, cwd=origin)
    with arena.mounted(arena.source, OPTIONS) as mount, arena.mounted(arena.source) as other:
        clone = mount.path / "clone"
        run("git", "clone", "-q", "--no-local", origin, clone)
        run("git", "fsck", "--full", "--strict", cwd=clone)
        run("git", "-c", "gc.auto=0", "repack", "-q", "-a", "-d", "-f", cwd=clone)
        run("git", "gc", "-q", "--prune=now", cwd=clone)
        run("git", "fsck", "--full", "--strict", cwd=clone)
        if status := run("git", "status", "--porcelain", cwd=clone):
            raise RowFailed(f"git status: {status}")
        back = arena.folder / "back"
        safe = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory"}
        run(
            *("git", "clone", "-q", "--no-local", other.path / "clone", back),
            env={**safe, "GIT_CONFIG_VALUE_0": "*"},
        )
        for what in ("HEAD", "HEAD^{tree}"):
            ids = {run("git", "rev-parse", what, cwd=place) for place in (origin, clone, back)}
            if len(ids) != 1:
                raise RowFailed(f"{what} differs: {ids}")
        run("git", "fsck", "--full", cwd=back)
        objects = run("git", "count-objects", "-v", cwd=clone)
        [packed] = re.findall(r"in-pack: (\d+)", objects)
        arena.figures.verified += int(packed)


POSTGRES: Final = Row(
    "postgres",
    "PostgreSQL on a mount with -o posix: initdb, pgbench, kill -9 of the postmaster, and of the "
    "mount below it with a new mount after it: it recovers, every committed transaction is there, "
    "all balances agree, and pg_amcheck and pg_checksums find nothing",
    postgres,
    None,
    {"scale": 5, "seconds": 60, "kills": 5},  # a table of scale 10 is beyond one object
)
ROWS = (
    POSTGRES,
    Row(
        "stress-ng",
        "stress-ng's file stressors with --verify, each alone, on a mount with -o posix",
        stress,
        None,
        {"seconds": 60},
        limit_s=(120, 7200),
        faults_needed=False,
    ),
    Row(
        "build",
        "zlib and lz4 from Debian's sources, configured and built by make -j2 on a mount, twice: "
        "the same bytes as on a local disk",
        build,
        None,
        {},
        faults_needed=False,
    ),
    Row(
        "fio-verify",
        "fio's random writes by write(2), mappings and libaio, with checksums, read back there and "
        "on another mount",
        fio_verify,
        None,
        {"turns": 6, "mib": 512},
        faults_needed=False,
    ),
    Row(
        "git",
        "clone, repack, gc and fsck of a repository of thousands of files, and a clone of that "
        "clone from another mount: the same commits and trees",
        git,
        None,
        {"commits": 300},
        faults_needed=False,
    ),
)
