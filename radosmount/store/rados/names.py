"""Names of any bytes through a binding that knows only UTF-8 `str`.

python3-rados 16 refuses `bytes`, and raises on names that are not UTF-8, but it converts by
two module globals that it looks up at each call. `install` replaces both by the conversion of
PEP 383 (surrogateescape), which loses nothing, and checks that they are really used.
"""

import rados

from radosmount.errors import MountError

# Not UTF-8, so the binding's own conversion fails on it.
_ODD_NAME = b"\xff\xfe"


def to_text(name: bytes) -> str:
    """The `str` by which the binding reaches `name`."""
    return name.decode("utf-8", "surrogateescape")


def from_text(text: str) -> bytes:
    """The bytes behind a `str` of the binding; the inverse of `to_text`."""
    return text.encode("utf-8", "surrogateescape")


def install() -> None:
    """Replace the binding's conversions, for the whole process. Idempotent."""
    rados.cstr = _encode
    rados.decode_cstr = _decode


def check(ioctx: rados.Ioctx) -> None:
    """Raise MountError unless the binding uses our conversions, both ways.

    Leaves `ioctx` in another namespace: it takes one that is closed afterwards.
    """
    try:
        ioctx.set_namespace(to_text(_ODD_NAME))
        returned = from_text(ioctx.get_namespace())
    except UnicodeError:
        returned = b""
    if returned != _ODD_NAME:
        raise MountError(
            "this version of python3-rados cannot handle names that are not UTF-8; "
            "please report it with the version of python3-rados"
        )


def _encode(
    value: str | bytes | None, name: str, encoding: str = "utf-8", opt: bool = False
) -> bytes | None:
    """Stands for `rados.cstr`: the signature is the binding's."""
    if value is None and opt:
        return None
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string")
    return value.encode(encoding, "surrogateescape")


def _decode(value: bytes | None, encoding: str = "utf-8") -> str | None:
    """Stands for `rados.decode_cstr`."""
    return None if value is None else value.decode(encoding, "surrogateescape")
