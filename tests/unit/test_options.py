"""SOURCE, -o options and the environment become a Config."""

from pathlib import Path

import pytest

from radosmount.config import KIB, MIB, Config, ConflictMode, FlushMode, ViewConfig
from radosmount.configure import configure, parse_source
from radosmount.errors import UsageError
from radosmount.options import OPTIONS, parse_size, show_size, split_options

DOCUMENTS = Path(__file__).parents[2] / "docs"


def configured(*items: str, source: str = "ceph:", **environment: str) -> Config:
    return configure(Config(), source, items, (), environment)


def refusal(*items: str, source: str = "ceph:", **environment: str) -> str:
    with pytest.raises(UsageError) as caught:
        configured(*items, source=source, **environment)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("source", "client", "cluster", "pool", "namespace"),
    [
        (":", "client.admin", "ceph", None, b""),
        ("ceph:", "client.admin", "ceph", None, b""),
        ("webapp@ceph:assets", "client.webapp", "ceph", b"assets", b""),
        ("webapp@:assets", "client.webapp", "ceph", b"assets", b""),
        ("client.webapp@ceph:assets", "client.webapp", "ceph", b"assets", b""),
        ("a@b@west:p", "client.a@b", "west", b"p", b""),
        (":p:q/eu/de", "client.admin", "ceph", b"p:q", b"eu/de"),
        (":p\udcff", "client.admin", "ceph", b"p\xff", b""),
    ],
)
def test_source(
    source: str, client: str, cluster: str, pool: bytes | None, namespace: bytes
) -> None:
    """SOURCE is [ID@][CLUSTER]:[POOL[/NAMESPACE]]."""
    config = configured(source=source)
    assert (config.store.client_name, config.store.cluster) == (client, cluster)
    assert (config.view.pool, config.view.namespace) == (pool, namespace)
    assert config.fuse.source == source


@pytest.mark.parametrize("source", ["", "assets", "/home/ceph:", "@ceph:", "ceph:/eu", "a b:"])
def test_bad_source_is_refused(source: str) -> None:
    with pytest.raises(UsageError):
        parse_source(source)


def test_each_option_reaches_its_setting() -> None:
    config = configured(
        "conf=/c", "id=web", "keyring=/k", "mon_host=a;b", "connect_timeout=2.5", "timeout=9s",
        "cache_size=1G", "atomic_max=64M", "flush=lazy", "dirty_expire=1", "conflict=last-writer",
        "ro", "rw_pools=a:b", "names=flat", "uid=5", "gid=6", "fmode=600", "dmode=0700",
        "strict_modes", "allow_other", "stock_fuse", "driver=native", "log_file=/l", "spool=/s",
    )  # fmt: skip
    assert (config.store.conf_path, config.store.keyring_path) == ("/c", "/k")
    assert (config.store.client_name, config.store.monitor_hosts) == ("client.web", "a;b")
    assert config.store.connect_timeout_s == 2.5
    sections = (config.store, config.cache, config.view)
    assert {section.timeout_s for section in sections} == {9.0}
    assert (config.cache.size_bytes, config.cache.atomic_max_bytes) == (1024 * MIB, 64 * MIB)
    assert (config.cache.flush, config.cache.dirty_expire_s) == (FlushMode.LAZY, 1.0)
    assert config.cache.conflict is ConflictMode.LAST_WRITER
    assert config.view.is_read_only
    assert config.view.has_strict_modes
    assert config.view.writable_pools == {b"a", b"b"}
    assert (config.view.uid, config.view.gid) == (5, 6)
    assert (config.view.file_mode, config.view.directory_mode) == (0o600, 0o700)
    assert (config.store.driver, config.fuse.is_tuned) == ("native", False)
    assert (config.process.log_path, config.cache.spool_directory) == ("/l", "/s")
    assert {"ro", "allow_other", "nosuid", "nodev", "default_permissions"} <= config.fuse.options


def test_what_mount_adds_is_accepted() -> None:
    """mount(8) and mount.fuse3 say rw first and dev,suid last; fstab says still more."""
    config = configured(
        "rw", "noatime", "noexec", "relatime", "_netdev", "nofail", "noauto", "user", "user=bob",
        "x-systemd.automount", "comment=mine", "dev", "suid",
    )  # fmt: skip
    assert config.fuse.options == {
        "fsname=ceph:", "subtype=radosmount", "nosuid", "nodev", "rw", "noatime", "noexec",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("uid", "items", "is_held"),
    [
        (0, [], False),
        (0, ["uid=1000"], False),  # the files are theirs, the mount is root's alone
        (0, ["allow_other"], True),
        (0, ["default_permissions"], True),
        (1000, [], True),
        (1000, ["uid=0"], True),
    ],
)
def test_who_is_held_to_the_modes(uid: int, items: list[str], is_held: bool) -> None:
    """All but root on a mount that nobody else may enter."""
    base = Config(view=ViewConfig(uid=uid))
    options = configure(base, "ceph:", items, (), {}).fuse.options
    assert ("default_permissions" in options) == is_held


def test_later_options_win() -> None:
    assert not configured("ro", "rw").view.is_read_only
    assert configured("sync", "flush=close").cache.flush is FlushMode.CLOSE


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["foo=bar"], "unknown option 'foo'"),
        (["ro=1"], "ro takes no value"),
        (["uid"], "uid needs a value"),
        (["uid=bob"], "uid=bob: not a number"),
        (["fmode=999"], "octal"),
        (["cache_size=lots"], "cache_size=lots: not a size"),
        (["cache_size=1M"], "at least 4M"),
        (["timeout=0"], "more than 0"),
        (["timeout=nan"], "more than 0"),
        (["timeout=x"], "number of seconds"),
        (["flush=never"], "one of close, lazy, sync"),
        (["names=deep"], "must be one of"),
        (["driver=c"], "one of auto, binding, native"),
        (["remount", "ro"], "remount is not possible"),
        (["name=webapp"], "client.webapp"),
        (["conf="], "must not be empty"),
        (["atomic_max=91M", "cache_size=1G"], "at most 90M"),
        (["atomic_max=65M"], "at most 64M"),
    ],
)
def test_refusals_name_the_option(items: list[str], words: str) -> None:
    """Unknown and wrong options are refused by name, in one line."""
    assert words in refusal(*items)


def test_atomic_max_shrinks_with_the_cache() -> None:
    """The default of atomic_max is never above a quarter of cache_size."""
    assert configured("cache_size=8M").cache.atomic_max_bytes == 2 * MIB
    assert configured().cache.atomic_max_bytes == 16 * MIB


def test_umask_gives_modes_unless_they_are_given() -> None:
    view = configured("fmode=640", "umask=077").view
    assert (view.file_mode, view.directory_mode) == (0o640, 0o700)


def test_user_named_twice() -> None:
    """The same user twice is no contradiction; two users are."""
    assert configured("id=a", source="a@ceph:").store.client_name == "client.a"
    assert "different user" in refusal("id=a", source="b@ceph:")
    assert "different cluster" in refusal("cluster=x", source="y:")


def test_environment_has_the_first_word_not_the_last() -> None:
    environment = {
        "CEPH_CONF": "/env.conf",
        "CEPH_ARGS": "--id envuser -k /env.keyring --debug_ms 1 --no-mon-config "
        "--osd-pool-default-size=1 foreign",
    }
    store = configured(**environment).store
    assert (store.conf_path, store.keyring_path) == ("/env.conf", "/env.keyring")
    assert store.client_name == "client.envuser"
    assert store.options == ()  # the rest of CEPH_ARGS is for librados to read
    store = configured("conf=/o.conf", source="me@ceph:", **environment).store
    assert (store.conf_path, store.client_name) == ("/o.conf", "client.me")
    assert "CEPH_ARGS" in refusal(CEPH_ARGS="--id 'x")


def test_commas() -> None:
    r"""`\,` is a comma in a value, and SOURCE's own commas do not end fsname."""
    assert split_options(r"mon_host=a\,b,,ro") == ["mon_host=a,b", "ro"]
    assert r"fsname=ceph:a\,b" in configured(source="ceph:a,b").fuse.options


@pytest.mark.parametrize("text", ["0", "1023", "4K", "16M", "3G", "4M"])
def test_sizes_round_trip(text: str) -> None:
    assert show_size(parse_size(text)) == text


def test_size_suffixes() -> None:
    assert parse_size("2k") == parse_size("2KiB") == parse_size("2048") == 2 * KIB


def manual_rows() -> list[str]:
    return [
        f"| `{option.usage}` | {option.meaning} | {option.default_text} |".replace("|  |", "| |")
        for option in OPTIONS
    ]


def test_manual_has_the_table() -> None:
    """radosmount(8) lists exactly the options that the parser knows, with their defaults."""
    text = (DOCUMENTS / "radosmount.8.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows == manual_rows(), "the table should be:\n" + "\n".join(manual_rows())
