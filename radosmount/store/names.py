r"""The escape grammar: which path in a pool's directory is which RADOS object.

Pure and total: every non-empty name of any bytes, with or without a locator key, has exactly
one path, and `object_of` accepts exactly these paths. Settled for ever, since changing it
renames users' files. docs/names.md is the user's table of it.

Names look as they are wherever a path can hold them. The rest is spelled with tokens that
begin with `%`; text that only looks like a token where it stands gets `25` inserted after its
`%` (once more than it has already), so that it is not read as one. Any other `%` is itself.

The lengths that RADOS accepts (osd_max_object_name_len) are the store's to check, and so is
NUL, at which librados would cut a name short.
"""

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

Path = tuple[bytes, ...]

COMPONENT_BYTES_MAX: Final = 255  # NAME_MAX of Linux
PIECE_BYTES: Final = 253  # of an over-long component; leaves room for two bytes of escape

LOCATOR_FOLLOWS: Final = b"%@"
BESIDE_DIRECTORY: Final = b"%."
CONTINUES: Final = b"%~"
EMPTY_COMPONENT: Final = b"%-"


class InvalidPath(ValueError):
    """No object has this path; the text says why as far as it is known."""


class ObjectName(NamedTuple):
    """An object within its pool and namespace. `locator` is its locator key, or b""."""

    name: bytes
    locator: bytes = b""


class Entry(NamedTuple):
    """What an object's path adds to a directory above it."""

    name: bytes
    is_directory: bool


class _Token:
    """One escape: `meaning`, where `before` and `after` match around it, is spelled `token`.

    `escape` and `unescape` are inverse for any text, so a sequence of tokens is undone by the
    reversed sequence. A token without a meaning is structure that others write and read; here
    it is only kept from being misread.
    """

    def __init__(
        self, token: bytes, meaning: bytes | None, before: bytes = b"", after: bytes = b""
    ) -> None:
        assert token.startswith(b"%")
        tail = b"((?:25)*" + re.escape(token[1:]) + b")" + after
        self._lookalike = re.compile(before + b"%" + tail, re.DOTALL)
        self._marked_lookalike = re.compile(before + b"%25" + tail, re.DOTALL)
        if meaning is not None:
            self._meaning = re.compile(before + re.escape(meaning) + after, re.DOTALL)
            self._token = re.compile(before + re.escape(token) + after, re.DOTALL)
        self._substitutes = None if meaning is None else (token, meaning)

    def escape(self, text: bytes) -> bytes:
        if b"%" in text:
            text = self._lookalike.sub(rb"%25\1", text)
        if self._substitutes and self._substitutes[1] in text:
            text = self._meaning.sub(self._substitutes[0], text)
        return text

    def unescape(self, text: bytes) -> bytes:
        if b"%" not in text:
            return text
        if self._substitutes:
            text = self._token.sub(self._substitutes[1], text)
        return self._marked_lookalike.sub(rb"%\1", text)


_NUL = _Token(b"%00", b"\0")
_SLASH = _Token(b"%2F", b"/")
_LOCATOR = _Token(LOCATOR_FOLLOWS, None)
_EMPTY = _Token(EMPTY_COMPONENT, b"", before=rb"\A", after=rb"\Z")
_BESIDE = _Token(BESIDE_DIRECTORY, None, after=rb"\Z")
# A component of 255 bytes that ends in `%~` goes on; at other lengths `%~` is itself.
_CONTINUES = _Token(CONTINUES, None, before=rb"(?<=\A.{%d})" % PIECE_BYTES, after=rb"\Z")
_DOTS = _Token(b"%2E", b".", before=rb"\A", after=rb"(?=\.?\Z)")
# `.`, `..`, and the directories that radosmount keeps for itself at the top of a pool.
_RESERVED = _Token(b"%2E", b".", before=rb"\A", after=rb"(?=(?:\.?|snap|nspace|omap|radosmount)\Z)")

_Tokens = tuple[_Token, ...]
_LOCATOR_TOKENS: Final[_Tokens] = (_NUL, _SLASH)
_POOL_TOKENS: Final[_Tokens] = (_NUL, _SLASH, _DOTS)


@dataclass(frozen=True, slots=True, eq=False)
class Grammar:
    """One view of the names in a pool: `FLAT` or `TREE`.

    A component is made in three steps, each undone by its own inverse: `_inner` escapes what
    may stand anywhere in a name, `_outer` what matters at a component's ends (`_outer_first`:
    of a path's first component), and what is then over 255 bytes is cut into pieces.
    """

    _separator: bytes | None
    _unescaped: re.Pattern[bytes]  # names that are their own path
    _inner: _Tokens
    _outer: _Tokens
    _outer_first: _Tokens

    def path_of(self, name: bytes, locator: bytes = b"", *, beside_directory: bool = False) -> Path:
        """The one path of an object, seen from its pool's directory.

        `beside_directory`: instead, its other spelling, for when a directory of the tree has
        that path (in the flat view none ever has).
        A locator key equal to the name is none: RADOS drops it (hobject_t::set_key).
        """
        is_name_alone = not locator and not beside_directory
        if is_name_alone and self._separator is None:
            text = name.replace(b"/", b"%2F")
            if _SLASHES_ONLY(name) and len(text) <= COMPONENT_BYTES_MAX:
                return (text,)
        elif is_name_alone and self._unescaped.fullmatch(name):
            return tuple(name.split(b"/"))
        elif (  # the marker of such a directory
            is_name_alone
            and name.endswith(b"/")
            and self._unescaped.fullmatch(name, 0, len(name) - 1)
        ):
            return (*name[:-1].split(b"/"), EMPTY_COMPONENT)
        if not name:
            raise ValueError("RADOS has no empty object names")
        texts = [_escape(self._inner, part) for part in self._split(name)]
        if locator and locator != name:
            texts[-1] += LOCATOR_FOLLOWS + _escape(_LOCATOR_TOKENS, locator)
        texts[0] = _escape(self._outer_first, texts[0])
        texts[1:] = [_escape(self._outer, text) for text in texts[1:]]
        if beside_directory:
            texts[-1] += BESIDE_DIRECTORY
        return tuple(component for text in texts for component in _cut(text))

    def object_of(self, path: Path, *, beside_directory: bool = False) -> ObjectName:
        """The object that has this path: the exact inverse of `path_of`, or InvalidPath."""
        plain = self.plain(path)
        if plain and not beside_directory:
            return ObjectName(plain, b"")
        texts = _uncut(path)
        if beside_directory:
            texts[-1] = texts[-1].removesuffix(BESIDE_DIRECTORY)
        texts[1:] = [_unescape(self._outer, text) for text in texts[1:]]
        texts[0] = _unescape(self._outer_first, texts[0])
        texts[-1], _, locator_text = texts[-1].partition(LOCATOR_FOLLOWS)
        name = b"/".join(_unescape(self._inner, text) for text in texts)
        locator = _unescape(_LOCATOR_TOKENS, locator_text)
        # What was read leniently above is now held to the one spelling that is right.
        if not name or self.path_of(name, locator, beside_directory=beside_directory) != path:
            raise InvalidPath(f"not the path of any object: {b'/'.join(path)!r}")
        return ObjectName(name, locator)

    def prefix_of(self, directory: Path) -> bytes:
        """What the names of all objects below a directory of the tree begin with.

        It ends in `/`, and is the name of the directory's own marker object too. The pool's
        directory () and continuation directories, which may end within an escape, have none.
        """
        if not directory or is_continuation(directory[-1]):
            raise InvalidPath(f"no directory of the tree: {b'/'.join(directory)!r}")
        plain = self.plain(directory)
        return plain + b"/" if plain else self.object_of((*directory, EMPTY_COMPONENT)).name

    def plain(self, path: Path) -> bytes:
        """The name that is its own path, where it is that one; else b""."""
        plain = b"/".join(path)
        is_own = self._unescaped.fullmatch(plain) and plain.count(b"/") == len(path) - 1
        return plain if is_own else b""

    def _split(self, name: bytes) -> list[bytes]:
        return [name] if self._separator is None else name.split(self._separator)


_PLAIN: Final = rb"[^/%\0.][^/%\0]{0,254}"
# Names of which the flat view spells nothing but the `/` with a token.
_SLASHES_ONLY: Final = re.compile(rb"[^%\0.][^%\0]*").fullmatch

FLAT: Final = Grammar(
    _separator=None,
    _unescaped=re.compile(_PLAIN),
    _inner=(_NUL, _SLASH, _LOCATOR),
    _outer=(),
    _outer_first=(_RESERVED, _CONTINUES),
)
TREE: Final = Grammar(
    _separator=b"/",
    _unescaped=re.compile(_PLAIN + b"(?:/" + _PLAIN + b")*"),
    _inner=(_NUL, _LOCATOR),
    _outer=(_EMPTY, _DOTS, _CONTINUES, _BESIDE),
    _outer_first=(_EMPTY, _RESERVED, _CONTINUES, _BESIDE),
)


def is_continuation(component: bytes) -> bool:
    """Whether it is a directory made only because a longer component goes on in it."""
    return len(component) == COMPONENT_BYTES_MAX and component.endswith(CONTINUES)


def entry_of(path: Path, directory: Path) -> Entry | None:
    """What the object at `path` adds to the listing of `directory`; None if not below it."""
    depth = len(directory)
    if len(path) <= depth or path[:depth] != directory:
        return None
    return Entry(path[depth], is_directory=len(path) > depth + 1)


def flat_components(names: list[bytes]) -> list[bytes] | None:
    """Of many names at once their paths in `FLAT`, all of one component; None where that is not
    so, or not seen at a glance. Never more than `path_of` of each would say."""
    text = b"\0".join(names)
    has_escapes = b"%" in text or b"\0." in text or text.startswith(b".")
    if has_escapes or text.count(b"\0") != len(names) - 1 or not all(names):
        return None
    components = text.replace(b"/", b"%2F").split(b"\0")
    return None if max(map(len, components)) > COMPONENT_BYTES_MAX else components


def escape_pool(name: bytes) -> bytes:
    """The directory that shows a pool, which may be over 255 bytes: no path holds it then."""
    return _escape(_POOL_TOKENS, name)


def pool_of(component: bytes) -> bytes:
    """The pool that a directory of the root shows, or InvalidPath."""
    name = _unescape(_POOL_TOKENS, component)
    if not name or escape_pool(name) != component:
        raise InvalidPath(f"not the directory of any pool: {component!r}")
    return name


def _escape(tokens: _Tokens, text: bytes) -> bytes:
    for token in tokens:
        text = token.escape(text)
    return text


def _unescape(tokens: _Tokens, text: bytes) -> bytes:
    for token in reversed(tokens):
        text = token.unescape(text)
    return text


def _cut(text: bytes) -> list[bytes]:
    """Path components that hold a component's text, whatever its length."""
    if len(text) <= COMPONENT_BYTES_MAX:
        return [text]
    *pieces, last = (text[i : i + PIECE_BYTES] for i in range(0, len(text), PIECE_BYTES))
    return [*(piece + CONTINUES for piece in pieces), _DOTS.escape(last)]


def _uncut(path: Path) -> list[bytes]:
    """The inverse of `_cut` for a whole path; never an empty list."""
    texts = []
    held = b""
    for component in path:
        if is_continuation(component):
            held += component[:PIECE_BYTES]
        else:
            texts.append(held + (_DOTS.unescape(component) if held else component))
            held = b""
    if held or not texts:
        raise InvalidPath(f"a directory, not an object: {b'/'.join(path)!r}")
    return texts
