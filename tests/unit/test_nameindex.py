"""The directories that a pool's names make."""

from hypothesis import given
from hypothesis import strategies as st

from radosmount.store.names import EMPTY_COMPONENT, TREE, ObjectName, Path
from radosmount.vfs.nameindex import Name, NameIndex

PARTS = st.sampled_from([b"", b"a", b"b", b"%-", b".", b"..", b".snap", b"a%.", b"x" * 300])
OBJECTS = st.builds(
    ObjectName,
    st.lists(PARTS, min_size=1, max_size=4).map(b"/".join).filter(bool),
    st.sampled_from([b"", b"", b"", b"key"]),
).filter(lambda found: found.locator != found.name)


def index_of(*names: bytes) -> NameIndex:
    index = NameIndex()
    for name in names:
        index.add(name)
    return index


def shown(index: NameIndex, *path: bytes) -> dict[bytes, ObjectName | None]:
    names = list(index.names(path))
    found = dict(names)
    assert len(found) == len(names), "each name once"
    return found


def walk(index: NameIndex, path: Path = ()) -> list[ObjectName]:
    """Every object that is found by going down from the top."""
    found = []
    for name in index.names(path):
        if name.found is not None:
            found.append(name.found)
        else:
            found += walk(index, (*path, name.component))
    return found


def test_names_make_directories() -> None:
    index = index_of(b"a", b"d/b", b"d/e/c")
    assert shown(index) == {b"a": ObjectName(b"a"), b"d": None}
    assert shown(index, b"d") == {b"b": ObjectName(b"d/b"), b"e": None}
    assert shown(index, b"d", b"e") == {b"c": ObjectName(b"d/e/c")}
    assert shown(index, b"no") == {}
    assert index.has_directory((b"d", b"e"))
    assert not index.has_directory((b"a",))


def test_a_file_beside_a_directory() -> None:
    """The directory takes the name."""
    index = index_of(b"a", b"a/b")
    assert shown(index) == {b"a": None, b"a%.": ObjectName(b"a")}
    index.discard(b"a/b")
    assert shown(index) == {b"a": ObjectName(b"a")}


def test_a_marker_keeps_its_directory() -> None:
    """And is not listed in it."""
    index = index_of(b"d/", b"d/a")
    assert shown(index, b"d") == {b"a": ObjectName(b"d/a")}
    assert not index.is_bare((b"d",))
    index.discard(b"d/a")
    assert index.is_bare((b"d",))
    assert shown(index) == {b"d": None}
    index.discard(b"d/")
    assert shown(index) == {}


def test_what_is_not_there_is_discarded_too() -> None:
    index = index_of(b"d/a")
    for name in (b"d/b", b"e/a", b"d", b"d/a/b"):
        index.discard(name)
    assert shown(index, b"d") == {b"a": ObjectName(b"d/a")}


def test_a_directory_of_which_only_a_part_is_listed() -> None:
    """What is added or removed while a listing goes on does not disturb it."""
    index = index_of(b"a", b"b", b"d/c")
    names = index.names(())
    assert next(names) == Name(b"d", None)
    index.add(b"e/f")
    index.discard(b"a")
    assert {name.component for name in names} == {b"a", b"b"}


@given(st.lists(OBJECTS, max_size=12), st.lists(OBJECTS, max_size=6))
def test_every_object_is_found_once(added: list[ObjectName], discarded: list[ObjectName]) -> None:
    """By going down from the top, but for markers, which are reached by name."""
    index = NameIndex()
    for found in added:
        index.add(*found)
    for found in discarded:
        index.discard(*found)
    left = set(added) - set(discarded)
    hidden = {
        found for found in left if len(p := TREE.path_of(*found)) > 1 and p[-1] == EMPTY_COMPONENT
    }
    assert sorted(walk(index)) == sorted(left - hidden)
    for found in hidden:
        assert index.has_directory(TREE.path_of(*found)[:-1])


@given(st.lists(OBJECTS, max_size=12))
def test_nothing_is_left(objects: list[ObjectName]) -> None:
    """When all objects are gone, so are all directories."""
    index = NameIndex()
    for found in objects:
        index.add(*found)
    for found in objects:
        index.discard(*found)
    assert shown(index) == {}
