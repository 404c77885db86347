"""How to reach the cluster, and in plain words why it was not reached.

Connect after any fork: librados's threads do not survive one.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import rados

from radosmount.config import StoreConfig
from radosmount.errors import MountError
from radosmount.store.rados import names

# In-flight calls are bounded by our threads. With librados's own bounds (1024 calls, 100 MiB)
# a call to a healthy OSD blocks behind those to a dead one.
_INFLIGHT_CALLS_MAX = 65536
_INFLIGHT_BYTES_MAX = 2 << 30


def settings(config: StoreConfig) -> Iterator[tuple[str, str]]:
    """All Ceph options that we set, the user's own last: those win."""
    yield "client_mount_timeout", _seconds(config.connect_timeout_s)
    yield "rados_mon_op_timeout", _seconds(config.timeout_s)
    yield "rados_osd_op_timeout", _seconds(config.timeout_s)
    # librados asks for a newer osdmap only for operations older than this (10 s). Ours end before:
    # those to an OSD that is gone would never be resent, nor those that come after them.
    yield "objecter_timeout", _seconds(min(10.0, config.timeout_s / 3))
    yield "objecter_tick_interval", _seconds(min(5.0, config.timeout_s / 3))
    yield "objecter_inflight_ops", str(_INFLIGHT_CALLS_MAX)
    yield "objecter_inflight_op_bytes", str(_INFLIGHT_BYTES_MAX)
    # Ours is the only voice: librados would write its own lines between.
    yield "log_to_stderr", "false"
    yield "err_to_stderr", "false"
    if config.keyring_path is not None:
        yield "keyring", config.keyring_path
    if config.monitor_hosts is not None:
        yield "mon_host", config.monitor_hosts
    yield from config.options


def connect(config: StoreConfig) -> rados.Rados:
    """A connected handle. Blocks for at most `connect_timeout_s`.

    Raises: MountError, one line that says what to do.
    """
    names.install()
    _check_readable(config.conf_path, "the Ceph configuration", "name it with -c")
    _check_readable(config.keyring_path, "the keyring", "name it with -k")
    handle = _new_handle(config)
    try:
        _configure(handle, config)
        _connect(handle, config)
    except BaseException:
        handle.shutdown()
        raise
    return handle


def _new_handle(config: StoreConfig) -> rados.Rados:
    try:
        return rados.Rados(name=config.client_name, clustername=config.cluster)
    except rados.Error:
        text = f"{config.client_name!r} is no Ceph user: give TYPE.ID, as client.admin"
        raise MountError(text) from None


def _configure(handle: rados.Rados, config: StoreConfig) -> None:
    try:
        handle.conf_read_file(config.conf_path)
    except rados.ObjectNotFound:
        # With the monitors named no file is needed.
        if config.conf_path is not None or config.monitor_hosts is None:
            raise MountError(_no_conf_text(config)) from None
    except rados.Error as failure:
        where = config.conf_path or "the Ceph configuration"
        raise MountError(f"cannot parse {where} ({_reason(failure)}); correct it") from None
    handle.conf_parse_env("CEPH_ARGS")
    for key, value in settings(config):
        _set_option(handle, key, value)


def _set_option(handle: rados.Rados, key: str, value: str) -> None:
    try:
        handle.conf_set(key, value)
    except rados.ObjectNotFound:
        raise MountError(f"Ceph knows no option {key}; see `ceph config ls`") from None
    except rados.Error:
        text = f"Ceph refuses the value that is given for the option {key}"  # it may be secret
        raise MountError(text) from None


def _connect(handle: rados.Rados, config: StoreConfig) -> None:
    try:
        handle.connect()
    except rados.Error as failure:
        raise MountError(_connect_failure_text(failure, handle, config)) from None


def _connect_failure_text(failure: rados.Error, handle: rados.Rados, config: StoreConfig) -> str:
    who = config.client_name
    keyring = handle.conf_get("keyring") or "no keyring is set"
    match failure.errno:
        case errno.ENOENT | errno.EACCES | errno.EPERM if not _has_key(keyring, who):
            return f"no key for {who} found ({keyring}); name the keyring with -k"
        case errno.EACCES | errno.EPERM:
            return (
                f"the cluster refuses {who}: the key in {keyring} is not the cluster's, or the "
                f"user has no mon cap; compare with `ceph auth get {who}`"
            )
        case errno.EINVAL:
            hosts = handle.conf_get("mon_host") or "not set"
            return f"the monitors' addresses are of no use (mon_host is {hosts}); correct them"
        case errno.EIO:
            return f"the keyring of {who} is damaged ({keyring}); write it anew"
        case errno.ETIMEDOUT:
            return (
                f"no monitor of the cluster answered within {config.connect_timeout_s:g} s "
                f"(mon_host {handle.conf_get('mon_host') or 'is not set'}); check the network, "
                "or raise connect_timeout"
            )
    return f"cannot connect to the cluster as {who}: {_reason(failure)}"


def _has_key(keyring: str, who: str) -> bool:
    """Whether one of the files that the option `keyring` lists names the user."""
    for path in keyring.split(","):
        try:
            text = Path(path.strip()).read_text(errors="replace")
        except OSError:
            continue  # librados takes the first that it can read, too
        if f"[{who}]" in text:
            return True
    return False


def _no_conf_text(config: StoreConfig) -> str:
    places = "$CEPH_CONF, /etc/ceph, ~/.ceph"
    where = config.conf_path or f"{config.cluster}.conf in {places}"
    return f"no Ceph configuration found ({where}); name it with -c, or the monitors with -m"


def _check_readable(path: str | None, what: str, advice: str) -> None:
    """librados says ENOENT or EIO for whatever is wrong; open(2) says which."""
    if path is None:
        return
    try:
        # librados opens it itself; we only want the errno.
        os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as failure:
        text = f"cannot read {what} {path}: {failure.strerror}; {advice}"
        raise MountError(text) from None


def _reason(failure: rados.Error) -> str:
    return os.strerror(failure.errno) if failure.errno else repr(failure)


def _seconds(value_s: float) -> str:
    """The options of librados 16 are floats or whole seconds; 0 would mean no limit."""
    return str(max(1, round(value_s)))
