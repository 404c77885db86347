"""The words of the command line, and the exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from radosmount import cli
from radosmount.config import Config
from radosmount.configure import connection_words, default_spool_directory
from radosmount.errors import UsageError
from radosmount.options import OPTIONS


def parsed(*words: str) -> Config:
    return cli.parse_mount(cli.sort_words(words), {}, "/home/me", 7, 8)


def test_as_mount_calls_it() -> None:
    """mount.fuse3 runs: radosmount SOURCE MOUNTPOINT -o rw,...,dev,suid."""
    config = parsed("webapp@ceph:assets", "/mnt", "-o", "rw,_netdev,allow_other,dev,suid")
    assert config.view.pool == b"assets"
    assert config.fuse.mountpoint == "/mnt"
    assert config.fuse.allow_other
    assert not config.is_foreground
    assert {"nosuid", "nodev"} <= config.fuse.options


def test_options_stand_anywhere() -> None:
    config = parsed("-f", "ceph:", "-oro", "mnt", "-c", "c.conf", "--keyring=k", "-mhost")
    assert config.is_foreground
    assert config.view.is_read_only
    assert config.store.conf_path == "/home/me/c.conf"  # the daemon leaves its directory
    assert config.store.keyring_path == "/home/me/k"
    assert config.store.monitor_hosts == "host"
    assert config.fuse.mountpoint == "/home/me/mnt"
    assert (config.view.uid, config.view.gid) == (7, 8)


def test_debug_means_foreground() -> None:
    assert parsed("-d", "ceph:", "/m").is_foreground


def test_values_with_commas() -> None:
    """Outside of -o a comma is a comma."""
    assert parsed("ceph:", "/m", "-m", "a,b").store.monitor_hosts == "a,b"


def test_where_the_spool_is() -> None:
    """For root the host's; for others below their home, as XDG has it."""
    assert parsed("ceph:", "/m").cache.spool_directory == "/var/lib/radosmount/spool"  # no HOME
    assert parsed("ceph:", "/m", "-o", "spool=s").cache.spool_directory == "/home/me/s"
    places = [
        (0, {"HOME": "/root"}, "/var/lib/radosmount/spool"),
        (7, {"HOME": "/h"}, "/h/.local/state/radosmount/spool"),
        (7, {"HOME": "/h", "XDG_STATE_HOME": "/s"}, "/s/radosmount/spool"),
        (7, {"HOME": "/h", "XDG_STATE_HOME": "s"}, "/h/.local/state/radosmount/spool"),
    ]
    for uid, environment, expected in places:
        assert default_spool_directory(uid, environment) == expected


def test_the_words_of_a_restore() -> None:
    """The log's command reaches the same cluster as the same user, and tells no secret."""
    words = ["webapp@west:assets", "/m", "-k", "key ring", "-mhost", "--key=secret", "-c", "c"]
    connection = connection_words(parsed(*words).store)
    assert connection == ["--cluster", "west", "-c", "/home/me/c", "-n", "client.webapp",
                          "-k", "/home/me/key ring", "-m", "host"]  # fmt: skip
    line = cli.CommandLine(known_flags=cli.RESTORE_FLAGS, known_values=cli.RESTORE_VALUES)
    cli.sort_words([*connection, "file", "--force", "--as=x"], line)
    assert line.operands == ["file"]
    assert (line.flags, line.values) == ({"force"}, {"as": "x"})


def test_any_other_ceph_option() -> None:
    config = parsed("--rados-osd-op-timeout", "10", "ceph:", "/m", "--debug_ms=1", "--key=x")
    assert config.store.options == (
        ("rados_osd_op_timeout", "10"),
        ("debug_ms", "1"),
        ("key", "x"),
    )


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "SOURCE and MOUNTPOINT are missing"),
        (["ceph:"], "MOUNTPOINT is missing"),
        (["ceph:", "a", "b"], "too many words"),
        (["--foregroud", "ceph:", "/m"], "unknown option --foregroud"),
        (["-z", "ceph:", "/m"], "unknown option -z"),
        (["ceph:", "/m", "-o"], "-o needs a value"),
        (["ceph:", "/m", "--conf"], "--conf needs a value"),
    ],
)
def test_wrong_words(words: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parsed(*words)


def run(*words: str, directory: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "radosmount", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=directory, timeout=60)


@pytest.mark.parametrize(
    ("words", "exit_code", "problem"),
    [
        (["nonsense"], 1, "MOUNTPOINT is missing"),
        (["nonsense", "/"], 1, "SOURCE 'nonsense' is not"),
        (["ceph:", "/", "-o", "foo=bar"], 1, "unknown option 'foo'"),
        (["ceph:", "missing"], 32, "missing does not exist: make it with mkdir"),
        (["ceph:", "file"], 32, "file is not a directory"),
        (["ceph:", "/dev/fd/3"], 32, "drop_privileges is not possible"),
        (["ceph:", "/proc"], 32, "/proc is busy: proc (proc) is mounted there"),
        (["umount"], 1, "give one mount point"),
        (["umount", "-x", "/"], 1, "unknown option -x"),
        (["umount", "."], 32, "nothing is mounted on"),
        (["restore"], 1, "FILE is missing"),
        (["restore", "--as", "x", "a", "b"], 1, "give one FILE"),
        (["restore", "--as"], 1, "--as needs a value"),
        (["restore", "-f", "a"], 1, "unknown option -f"),
        (["restore", "-c", "/nowhere", "a"], 32, "/nowhere: No such file"),
        (["umount", "/proc"], 32, "/proc is no radosmount (proc, proc): use umount"),
    ],
)
def test_one_plain_line(words: list[str], exit_code: int, problem: str, tmp_path: Path) -> None:
    """Every failure is one plain line on stderr; exit codes are those of mount(8)."""
    (tmp_path / "file").touch()
    result = run(*words, directory=tmp_path)
    assert result.returncode == exit_code
    assert result.stderr.startswith("radosmount: ")
    assert problem in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize("option", ["log_file", "spool"])
@pytest.mark.parametrize("path", ["mnt/a", "mnt/below/a", "link/a", "mnt/../mnt/a"])
def test_nothing_of_ours_below_the_mount_point(option: str, path: str, tmp_path: Path) -> None:
    """We would wait for ourselves to write there; whatever way leads there."""
    (tmp_path / "mnt").mkdir()
    (tmp_path / "link").symlink_to("mnt")
    result = run("ceph:", "mnt", "-f", "-o", f"{option}={path}", directory=tmp_path)
    assert result.returncode == 32
    assert result.stderr.startswith(f"radosmount: {option}={tmp_path}/")
    assert result.stderr.endswith(" is below the mount point: name a place outside of it\n")
    assert result.stderr.count("\n") == 1
    assert list((tmp_path / "mnt").iterdir()) == []


@pytest.mark.parametrize("path", ["mnt-a", "a", "mnt/../a"])
def test_a_log_beside_the_mount_point(path: str, tmp_path: Path) -> None:
    """It may be anywhere else: it goes on to what is wrong otherwise."""
    (tmp_path / "mnt").mkdir()
    words = ("-c", "/nowhere", "-f", "-o", f"log_file={path}")
    result = run("ceph:", "mnt", *words, directory=tmp_path)
    assert "cannot read the Ceph configuration /nowhere" in result.stderr


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert [option.name for option in OPTIONS if f"\n  {option.usage} " not in text] == []
