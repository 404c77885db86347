"""From SOURCE, options and the environment to a `Config`.

Pure: reads no file, no environment and no clock but what it is given. Not the command line:
its words are cli.py's.

Of several settings the later one wins: CEPH_CONF and CEPH_KEYRING, CEPH_ARGS, SOURCE, options
in the order in which they were given. Only SOURCE and an option that say different things about
the user or the cluster are an error.
"""

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

from radosmount.config import MIB, CacheConfig, Config, StoreConfig
from radosmount.errors import UsageError
from radosmount.options import BY_NAME, Settings, parse_options, show_size

ATOMIC_MAX_BYTES: Final = 90 * MIB  # RADOS takes 90 MiB in one operation (osd_max_write_size)
CACHE_SHARE_MAX: Final = 4  # a file that goes out whole holds at most a quarter of the cache
CACHE_SIZE_MIN_BYTES: Final = 4 * MIB  # four of the kernel's writes: enough to work at all
# Whatever is asked: no object of a shared store becomes a way to another user's rights.
FORCED: Final = frozenset({"nosuid", "nodev", "subtype=radosmount"})
# Where others than root may get in, the kernel holds them to the modes. Root it would hold to
# nothing, and yet ask for a directory's mode after each change in it, and a file's before others.
HELD_TO_MODES: Final = frozenset({"default_permissions"})

ROOT_SPOOL_DIRECTORY: Final = "/var/lib/radosmount/spool"

SOURCE_FORM: Final = "[ID@][CLUSTER]:[POOL[/NAMESPACE]], as ceph: or webapp@ceph:assets"


def parse_source(source: str) -> Settings:
    """What SOURCE says: the first `:` ends the cluster, the first `/` after it the pool.

    Raises: UsageError.
    """
    before, colon, path = source.partition(":")
    client, has_client, cluster = before.rpartition("@")
    if not colon or "/" in before:
        raise UsageError(f"SOURCE {source!r} is not {SOURCE_FORM}")
    pool, _, namespace = path.partition("/")
    if namespace and not pool:
        raise UsageError(f"SOURCE {source!r} names a namespace, but no pool")
    settings: Settings = {"fuse.source": source, "view.namespace": os.fsencode(namespace)}
    if pool:
        settings["view.pool"] = os.fsencode(pool)
    if has_client:
        settings |= BY_NAME["id"].settings(client)
    if cluster:
        settings |= BY_NAME["cluster"].settings(cluster)
    return settings


# Any other option of Ceph's has a `_` or `-` in its name (rados_osd_op_timeout), but these. So a
# mistyped option of ours is refused by name instead of being taken for one of Ceph's.
SHORT_CEPH_OPTIONS: Final = frozenset({"key", "keyfile", "fsid", "host"})
CEPH_OPTION_FORM: Final = re.compile("[a-z][a-z0-9]*([_-][a-z0-9]+)+")


def connection_words(config: StoreConfig) -> list[str]:
    """What to say to another command of ours, so that it reaches the same cluster as the same
    user. Other Ceph options are left out: they may be secret (--key)."""
    fields = (
        ("--cluster", "cluster"), ("-c", "conf_path"), ("-n", "client_name"),
        ("-k", "keyring_path"), ("-m", "monitor_hosts"),
    )  # fmt: skip
    words: list[str] = []
    for option, field in fields:
        value = getattr(config, field)
        if value != getattr(StoreConfig(), field):
            words += [option, value]
    return words


def is_ceph_option(name: str) -> bool:
    return name in SHORT_CEPH_OPTIONS or CEPH_OPTION_FORM.fullmatch(name) is not None


def parse_environment(environment: Mapping[str, str]) -> Settings:
    """What CEPH_CONF, CEPH_KEYRING and CEPH_ARGS say, as to any Ceph program.

    Of CEPH_ARGS only who and where: librados reads the rest itself, with its own grammar.
    Raises: UsageError.
    """
    settings: Settings = {}
    if conf := environment.get("CEPH_CONF"):
        settings["store.conf_path"] = conf
    if keyring := environment.get("CEPH_KEYRING"):
        settings["store.keyring_path"] = keyring
    try:
        words = shlex.split(environment.get("CEPH_ARGS", ""))
    except ValueError as problem:
        raise UsageError(f"CEPH_ARGS: {problem}") from None
    return settings | parse_ceph_words(words)


CEPH_WORDS: Final = {
    "-c": "conf", "--conf": "conf", "-n": "name", "--name": "name", "-i": "id", "--id": "id",
    "--user": "id", "-k": "keyring", "--keyring": "keyring", "-m": "mon_host",
    "--mon-host": "mon_host", "--mon_host": "mon_host", "--cluster": "cluster",
}  # fmt: skip


def parse_ceph_words(words: list[str]) -> Settings:
    settings: Settings = {}
    for word, next_word in pairwise([*words, ""]):
        name, has_value, value = word.partition("=")
        if name in CEPH_WORDS:
            settings |= BY_NAME[CEPH_WORDS[name]].settings(value if has_value else next_word)
    return settings


def configure(
    base: Config,
    source: str,
    items: Iterable[str],
    ceph_options: Iterable[tuple[str, str]] = (),
    environment: Mapping[str, str] | None = None,
) -> Config:
    """`base` with all that SOURCE, -o items, other Ceph options and the environment say.

    Raises: UsageError, one plain line.
    """
    from_environment = parse_environment(environment or {})
    from_source = parse_source(source)
    from_options = parse_options(items)
    for field, what in (("store.client_name", "user"), ("store.cluster", "cluster")):
        said = {settings[field] for settings in (from_source, from_options) if field in settings}
        if len(said) > 1:
            raise UsageError(f"SOURCE and the options name different {what}s: {source!r}")
    settings = from_environment | from_source | from_options
    settings["store.options"] = tuple(ceph_options)
    return build(base, settings)


def build(base: Config, settings: Settings) -> Config:
    """Apply the settings, and what follows from several of them. Raises: UsageError."""
    settings = dict(settings)
    umask = settings.pop("view.umask", None)
    if isinstance(umask, int):
        modes: Settings = {
            "view.file_mode": 0o666 & ~umask,
            "view.directory_mode": 0o777 & ~umask,
        }
        settings = modes | settings
    settings["cache.atomic_max_bytes"] = atomic_max(base.cache, settings)
    settings["fuse.options"] = libfuse_options(settings, base.view.uid)
    sections: dict[str, dict[str, Any]] = {}
    for path, value in settings.items():
        section, _, field = path.partition(".")
        sections.setdefault(section, {})[field] = value
    return replace(
        base, **{name: replace(getattr(base, name), **new) for name, new in sections.items()}
    )


def atomic_max(base: CacheConfig, settings: Settings) -> int:
    """What was asked for is refused where it cannot be; the default shrinks with the cache."""
    cache_size = settings.get("cache.size_bytes", base.size_bytes)
    assert isinstance(cache_size, int)
    if cache_size < CACHE_SIZE_MIN_BYTES:
        raise UsageError(f"option cache_size must be at least {show_size(CACHE_SIZE_MIN_BYTES)}")
    limit = min(cache_size // CACHE_SHARE_MAX, ATOMIC_MAX_BYTES)
    asked = settings.get("cache.atomic_max_bytes")
    if asked is None:
        return min(base.atomic_max_bytes, limit)
    assert isinstance(asked, int)
    if asked > limit:
        raise UsageError(
            f"option atomic_max={show_size(asked)} is too large: at most {show_size(limit)}, "
            "a quarter of cache_size and never above 90M"
        )
    return asked


def libfuse_options(settings: Settings, mounting_uid: int) -> frozenset[str]:
    source = str(settings["fuse.source"]).replace("\\", r"\\").replace(",", r"\,")
    passed = settings.get("fuse.options", frozenset())
    assert isinstance(passed, frozenset)
    options: frozenset[str] = FORCED | {f"fsname={source}"} | passed
    if settings.get("fuse.allow_other"):
        options |= {"allow_other"}
    if settings.get("fuse.allow_other") or mounting_uid != 0:
        options |= HELD_TO_MODES
    return options | {"ro" if settings.get("view.is_read_only") else "rw"}


def default_spool_directory(uid: int, environment: Mapping[str, str]) -> str:
    """Below XDG_STATE_HOME, as the XDG specification has it; root's is the host's."""
    state = environment.get("XDG_STATE_HOME", "")
    if not state.startswith("/"):  # a relative one does not count
        state = os.path.join(environment.get("HOME", ""), ".local/state")
    if uid == 0 or not state.startswith("/"):
        return ROOT_SPOOL_DIRECTORY
    return os.path.join(state, "radosmount/spool")


def with_absolute_paths(config: Config, directory: str) -> Config:
    """The daemon leaves its working directory, so no path may depend on it."""

    def absolute(path: str | None) -> str | None:
        return path and os.path.normpath(os.path.join(directory, path))

    store = replace(
        config.store,
        conf_path=absolute(config.store.conf_path),
        keyring_path=absolute(config.store.keyring_path),
    )
    cache = replace(config.cache, spool_directory=absolute(config.cache.spool_directory))
    process = replace(config.process, log_path=absolute(config.process.log_path))
    mountpoint = absolute(config.fuse.mountpoint) or ""
    fuse = replace(config.fuse, mountpoint=mountpoint)
    return replace(config, store=store, cache=cache, process=process, fuse=fuse)
