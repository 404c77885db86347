"""The escape grammar is a bijection, keeps its promises to the kernel, and is what the docs say."""

import ast
import re
from pathlib import Path as FilePath

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from radosmount.store.names import (
    EMPTY_COMPONENT,
    FLAT,
    TREE,
    Entry,
    Grammar,
    InvalidPath,
    Path,
    entry_of,
    escape_pool,
    flat_components,
    is_continuation,
    pool_of,
)

DOCUMENT = FilePath(__file__).parents[2] / "docs" / "names.md"
RESERVED = {b".snap", b".nspace", b".omap", b".radosmount"}
NAME_BYTES_MAX = 2048

# Tokens, what looks like them, and the letters both are made of.
FRAGMENTS = [
    *(bytes([letter]) for letter in b"%25FE./-~@0\0x\n\xff"),
    *(b"%25", b"25", b"%2F", b"%00", b"%@", b"%-", b"%2E", b"%.", b"%~", b"..", b"//"),
    *RESERVED,
    *(name[1:] for name in RESERVED),
]


def tricky(count_max: int = 12) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(FRAGMENTS), max_size=count_max).map(b"".join)


def long_names() -> st.SearchStrategy[bytes]:
    """Tricky text at both ends and around each place where a component may be cut."""
    lengths = st.one_of(
        *(st.integers(low, low + 14) for low in (0, 245, 498, 750, 2030)), st.integers(0, 2048)
    )
    fills = st.sampled_from([b"x", b"x", b"25", b"%", b"%25", b".", b"/", b"\0", b"x/"])
    return st.builds(
        lambda start, fill, length, middle, end: (
            start + (fill * length)[: length - len(start)] + middle + end
        )[:NAME_BYTES_MAX],
        tricky(4),
        fills,
        lengths,
        tricky(4),
        st.one_of(tricky(4), st.binary(max_size=300)),
    )


def names() -> st.SearchStrategy[bytes]:
    return st.one_of(st.binary(max_size=NAME_BYTES_MAX), tricky(), long_names()).filter(bool)


def locators() -> st.SearchStrategy[bytes]:
    return st.one_of(st.just(b""), tricky(4), long_names())


def components() -> st.SearchStrategy[bytes]:
    """What the kernel may ask for: 1 to 255 bytes, neither `.` nor `..`, no `/`, no NUL."""
    continuations = st.one_of(st.just(b"x"), tricky(3)).map(
        lambda text: (text + b"x" * 253)[:253] + b"%~"
    )
    return (
        st.one_of(tricky(), long_names(), st.binary(max_size=255), continuations)
        .map(lambda text: re.sub(rb"[/\0]", b"", text)[:255])
        .filter(lambda text: text not in (b"", b".", b".."))
    )


def paths() -> st.SearchStrategy[Path]:
    return st.lists(components(), min_size=1, max_size=4).map(tuple)


# Long names of many components take their time, and machines may be busy.
unhurried = settings(deadline=None)

views = pytest.mark.parametrize("view", [FLAT, TREE], ids=["flat", "tree"])


@views
@unhurried
@given(name=names(), locator=locators(), beside=st.booleans())
@example(name=b"%" + b"25" * 125 + b"2E.", locator=b"", beside=False)
@example(name=b"x" * 253 + b"%25~", locator=b"", beside=False)
@example(name=b"\n" * 253 + b"%~", locator=b"", beside=False)
@example(name=b"x" * 252 + b"%.y", locator=b"", beside=True)
@example(name=b"a/b", locator=b"", beside=True)
@example(name=b"a/b", locator=b"", beside=False)
@example(name=b"x" * 252 + b"/", locator=b"", beside=False)
@example(name=b"x" * 253 + b"/", locator=b"", beside=False)
def test_every_object_has_a_path_that_leads_back(
    view: Grammar, name: bytes, locator: bytes, beside: bool
) -> None:
    """Any name and locator key comes back from its path, in either of its spellings."""
    path = view.path_of(name, locator, beside_directory=beside)
    key = b"" if locator == name else locator
    assert (name, key) == view.object_of(path, beside_directory=beside)


@views
@unhurried
@given(name=names(), locator=locators(), beside=st.booleans())
@example(name=b"%" + b"25" * 125 + b"2E", locator=b"", beside=False)
def test_every_component_is_legal(view: Grammar, name: bytes, locator: bytes, beside: bool) -> None:
    """The kernel and the hidden directories can live with every path."""
    path = view.path_of(name, locator, beside_directory=beside)
    for component in path:
        assert 1 <= len(component) <= 255
        assert component not in (b".", b"..")
        assert b"/" not in component
        assert b"\0" not in component
    assert path[0] not in RESERVED
    assert not is_continuation(path[-1])


@views
@unhurried
@given(path=paths(), beside=st.booleans())
@example(path=(b"x" * 253 + b"%~", b"xx"), beside=False)
@example(path=(b"x" * 253 + b"%~", b"%2E"), beside=False)
@example(path=(b"x" * 253 + b"%~", b"y" * 253 + b"%~", b"%2E"), beside=False)
def test_only_canonical_paths_are_accepted(view: Grammar, path: Path, beside: bool) -> None:
    """Whatever path is asked for is the one path of its object, or refused."""
    try:
        name, locator = view.object_of(path, beside_directory=beside)
    except InvalidPath:
        return
    assert path == view.path_of(name, locator, beside_directory=beside)


@views
@unhurried
@given(first=st.tuples(tricky(5), tricky(2)), second=st.tuples(tricky(5), tricky(2)))
def test_distinct_objects_have_distinct_paths(
    view: Grammar, first: tuple[bytes, bytes], second: tuple[bytes, bytes]
) -> None:
    """No two objects share a path, whichever spellings are in use."""
    assume(first[0] and second[0] and first != second)
    assume(first[0] != first[1] and second[0] != second[1])
    spellings = [False, True] if view is TREE else [False]
    for beside in spellings:
        assert view.path_of(*first) != view.path_of(*second, beside_directory=beside)


@unhurried
@given(names())
def test_an_object_has_another_path_beside_its_directory(name: bytes) -> None:
    """`a%.` is free whatever else is in the pool: no object's path, and no directory's."""
    path = TREE.path_of(name, beside_directory=True)
    with pytest.raises(InvalidPath):
        TREE.object_of(path)
    with pytest.raises(InvalidPath):
        TREE.prefix_of(path)


@unhurried
@given(names(), names())
def test_only_a_prefix_takes_the_path_of_an_object(name: bytes, other: bytes) -> None:
    """A directory has the path of an object only where it is of the object's name and `/`."""
    directory = TREE.path_of(name)
    assert TREE.prefix_of(directory) == name + b"/"
    below = TREE.path_of(name + b"/" + other)
    assert entry_of(below, directory) == Entry(
        below[len(directory)], is_directory=len(below) > len(directory) + 1
    )


@unhurried
@given(names(), locators())
def test_a_directory_of_the_tree_is_a_prefix(name: bytes, locator: bytes) -> None:
    """Each directory above an object stands for a prefix of its name, or is a continuation."""
    path = TREE.path_of(name, locator)
    prefixes = [
        TREE.prefix_of(path[:depth])
        for depth in range(1, min(len(path), 30))
        if not is_continuation(path[depth - 1])
    ]
    ends = [match.end() for match in re.finditer(b"/", name)]
    assert prefixes == [name[:end] for end in ends[: len(prefixes)]]
    assert len(prefixes) == len(ends) or len(path) >= 30


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_continuation_is_no_directory_of_the_tree(depth: int) -> None:
    """What ends within a component, or is the pool itself, has no prefix."""
    path = TREE.path_of(b"x" * 600)
    with pytest.raises(InvalidPath):
        TREE.prefix_of(path[:depth])


@unhurried
@given(names().filter(lambda name: b"%" not in name and b"\0" not in name))
def test_ordinary_names_look_as_they_are(name: bytes) -> None:
    """Without `%` and NUL, a name of legal, short components is its own path."""
    parts = tuple(name.split(b"/"))
    assume(all(0 < len(part) <= 255 and part not in (b".", b"..") for part in parts))
    assume(parts[0] not in RESERVED)
    assert TREE.path_of(name) == parts


@unhurried
@given(st.lists(names(), max_size=4), st.lists(components(), min_size=1))
@example([b"x" * 253 + b"%~"], [b"a"])
@example([b"a\0b"], [b"a"])
def test_many_names_at_once(tricky_names: list[bytes], plain: list[bytes]) -> None:
    """Many flat names at once are what each is alone, or left to be asked one by one."""
    for some in (plain, plain + tricky_names, tricky_names + plain):
        found = flat_components(some)
        assert found is None or [(one,) for one in found] == [FLAT.path_of(name) for name in some]


def test_ordinary_names_at_once() -> None:
    """What nearly every pool has is not left to be asked one by one."""
    assert flat_components([b"a", b"b/c d", b"x" * 255]) == [b"a", b"b%2Fc d", b"x" * 255]
    assert flat_components([b"x" * 256]) is None


@unhurried
@given(components())
def test_nearly_every_file_name_can_be_created(component: bytes) -> None:
    """A flat file name is refused only for the few reasons that docs/names.md gives."""
    refused = component in RESERVED or b"%@" in component or is_continuation(component)
    assume(not refused)
    assert FLAT.object_of((component,)).locator == b""


@pytest.mark.parametrize("path", [(), (b"",), (b"a/b",), (b"a", b""), (b".",), (b"a", b"..")])
@views
def test_what_is_no_path_at_all_is_refused(view: Grammar, path: Path) -> None:
    """Illegal components are InvalidPath too, should anyone pass them."""
    with pytest.raises(InvalidPath):
        view.object_of(path)


@views
def test_the_empty_name_is_refused(view: Grammar) -> None:
    """RADOS has no object without a name."""
    with pytest.raises(ValueError, match="empty"):
        view.path_of(b"")


@pytest.mark.parametrize(
    ("path", "directory", "entry"),
    [
        ((b"a",), (), Entry(b"a", is_directory=False)),
        ((b"a", b"b"), (), Entry(b"a", is_directory=True)),
        ((b"a", b"b"), (b"a",), Entry(b"b", is_directory=False)),
        ((b"a", b"b"), (b"a", b"b"), None),
        ((b"a", b"b"), (b"b",), None),
        ((b"ab",), (b"a",), None),
    ],
)
def test_an_object_adds_one_entry_to_each_directory_above(
    path: Path, directory: Path, entry: Entry | None
) -> None:
    """A file in its own directory, a directory in those above, nothing elsewhere."""
    assert entry == entry_of(path, directory)


@unhurried
@given(st.one_of(st.binary(max_size=300), tricky()).filter(bool))
def test_every_pool_has_a_directory(name: bytes) -> None:
    """Pool names round-trip and are legal components."""
    component = escape_pool(name)
    assert name == pool_of(component)
    assert component not in (b"", b".", b"..")
    assert b"/" not in component
    assert b"\0" not in component


@unhurried
@given(components())
def test_every_legal_component_is_of_a_pool(component: bytes) -> None:
    """No directory name of the root is invalid, nor the second one of a pool."""
    assert component == escape_pool(pool_of(component))


@pytest.mark.parametrize("component", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_what_is_no_component_is_no_pool(component: bytes) -> None:
    with pytest.raises(InvalidPath):
        pool_of(component)


@pytest.mark.parametrize(
    ("pool", "component"),
    [(b".mgr", b".mgr"), (b".snap", b".snap"), (b"..", b"%2E."), (b"a/b%@", b"a%2Fb%@")],
)
def test_pools_look_as_they_are(pool: bytes, component: bytes) -> None:
    assert component == escape_pool(pool)


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading of docs/names.md, without its head."""
    section = DOCUMENT.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def literal(cell: str) -> bytes:
    """The bytes that a cell such as `x\\n[y*253]` means."""
    text = re.sub(r"\[(.)\*(\d+)\]", lambda run: run[1] * int(run[2]), cell.strip("`"))
    value = ast.literal_eval(f'b"{text}"')
    assert isinstance(value, bytes)
    return value


def slashed(path: Path) -> bytes:
    return b"/".join(path)


@pytest.mark.parametrize("row", rows("Examples"), ids=lambda row: f"{row[0]} {row[1]}")
def test_the_documented_examples_are_true(row: list[str]) -> None:
    """Each row of the table of examples, in both views, there and back."""
    name, locator, in_tree, in_flat = map(literal, row)
    for view, path in ((TREE, in_tree), (FLAT, in_flat)):
        assert path == slashed(view.path_of(name, locator))
        assert view.object_of(tuple(path.split(b"/"))).name == name


@pytest.mark.parametrize("row", rows("Paths that no object has"), ids=lambda row: row[0])
def test_the_documented_refusals_are_true(row: list[str]) -> None:
    """Each path that the docs call impossible is refused, in the views that they name."""
    path = tuple(literal(row[0]).split(b"/"))
    for view in {"both": [FLAT, TREE], "flat": [FLAT], "tree": [TREE]}[row[1]]:
        with pytest.raises(InvalidPath):
            view.object_of(path)


def test_the_documented_tokens_are_the_tokens() -> None:
    """The table of tokens names all that the grammar makes of `%`, and no more."""
    documented = {literal(row[0]) for row in rows("Tokens")}
    everything = [b"/%\0", b".", b"d/", b"x" * 256]
    spelled = b"".join(
        slashed(view.path_of(name, b"k", beside_directory=view is TREE))
        + slashed(view.path_of(name))
        for name in everything
        for view in (FLAT, TREE)
    )
    tokens = set(re.findall(rb"%(?:2F|00|2E|[^%/])", spelled))
    assert EMPTY_COMPONENT in documented
    assert documented == tokens
