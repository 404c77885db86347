"""Inodes live as long as someone may speak of them."""

import pytest

from radosmount.cache.file import CachedFile
from radosmount.errors import NoSpace
from radosmount.store.interface import ObjectKey, ObjectStat
from radosmount.vfs import nodes
from radosmount.vfs.nodes import (
    ROOT_INO,
    DirectoryNode,
    FileNode,
    NodeTable,
    ObjectPlace,
    RootNode,
)
from tests.support.stores import key_of


def file_node(name: bytes, base: ObjectStat | None = None) -> FileNode:
    return FileNode(CachedFile(key_of(name), base or ObjectStat(0, 1, 1)))


@pytest.fixture
def table() -> NodeTable:
    table = NodeTable()
    table.set_root(RootNode())
    return table


def test_root_is_never_forgotten(table: NodeTable) -> None:
    """The root is inode 1, whatever the kernel gives back."""
    table.forget(ROOT_INO, 0)
    assert isinstance(table[ROOT_INO], RootNode)


def test_number_is_the_same_on_every_mount(table: NodeTable) -> None:
    """An inode's number is made from the object's name alone."""
    one, two = file_node(b"f"), file_node(b"f")
    other = NodeTable()
    table.add(one)
    other.add(two)
    assert one.ino == two.ino > ROOT_INO


@pytest.mark.parametrize("key", [ObjectKey(3, b"", b"f", b""), ObjectKey(9, b"n", b"\xff/", b"l")])
def test_number_of_a_listed_file(table: NodeTable, key: ObjectKey) -> None:
    """A listing tells the number that a look-up then gives, and that of an inode that is there."""
    told = table.file_number(key)
    assert told == table.number(key)
    node = FileNode(CachedFile(key, None))
    table.add(node)
    assert node.ino == told
    node.ino += 1
    assert table.file_number(key) == node.ino


def test_colliding_numbers_move_apart(table: NodeTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files whose numbers would be the same, or the root's, get different ones."""
    monkeypatch.setattr(nodes, "_hashed_ino", lambda identity: ROOT_INO)
    one, two = file_node(b"a"), file_node(b"b")
    table.add(one)
    table.add(two)
    assert len({ROOT_INO, one.ino, two.ino}) == 3
    assert table.find_file(key_of(b"a")) is one
    assert table.find_file(key_of(b"b")) is two


def test_forgotten_when_all_references_are_back(table: NodeTable) -> None:
    """An inode goes with the last reference of the kernel, not before."""
    node = file_node(b"f")
    table.add(node)
    node.lookup_count = 3
    table.forget(node.ino, 2)
    assert table.find_file(key_of(b"f")) is node
    table.forget(node.ino, 1)
    assert table.find_file(key_of(b"f")) is None
    table.forget(node.ino, 1)
    with pytest.raises(KeyError):
        table[node.ino]


@pytest.mark.parametrize("reason", ["open", "dirty", "unheard error"])
def test_needed_inodes_stay(table: NodeTable, reason: str) -> None:
    """A file that is open, unstored, or whose error nobody has heard is not forgotten."""
    node = file_node(b"f")
    table.add(node)
    node.lookup_count = 1
    if reason == "open":
        node.open_count = 1
    elif reason == "dirty":
        node.file.write(0, b"x", 1)
    else:
        node.file.write(0, b"x", 1)
        node.file.start_write()
        node.file.fail_write(NoSpace("full"), None)
        node.file.discard()
    table.forget(node.ino, 1)
    assert table.find_file(key_of(b"f")) is node


def test_unlinked_file_lives_by_its_number(table: NodeTable) -> None:
    """An unlinked file's name is free for another, while its number is still known."""
    node = file_node(b"f")
    table.add(node)
    node.lookup_count = 1
    table.unlink(node)
    assert table[node.ino] is node
    assert table.find_file(key_of(b"f")) is None
    newer = file_node(b"f")
    table.add(newer)
    assert newer.ino != node.ino
    table.forget(node.ino, 1)
    assert table.find_file(key_of(b"f")) is newer


def test_renamed_file_keeps_its_number(table: NodeTable) -> None:
    """A rename moves the name, not the number."""
    node = file_node(b"a")
    table.add(node)
    node.lookup_count = 1
    ino = node.ino
    table.rename(node, key_of(b"b"))
    assert node.ino == ino
    assert table.find_file(key_of(b"a")) is None
    assert table.find_file(key_of(b"b")) is node
    assert node.file.key == key_of(b"b")


def test_file_forgotten_during_its_rename_has_no_name(table: NodeTable) -> None:
    """A rename gives no name to an inode that the table has not any more."""
    node = file_node(b"a")
    table.add(node)
    table.drop_if_unused(node)
    table.rename(node, key_of(b"b"))
    assert table.find_file(key_of(b"b")) is None


def test_identities(table: NodeTable) -> None:
    """A directory and a file of one name are two, as are two pools' files."""
    place = ObjectPlace(1, b"")
    directory, file = DirectoryNode(place, (b"f",)), file_node(b"f")
    table.add(directory)
    table.add(file)
    assert table.find(directory.identity) is directory
    assert table.files() == [file]
    assert place.holds(key_of(b"f"))
    assert not ObjectPlace(2, b"").holds(key_of(b"f"))
    assert not ObjectPlace(1, b"n").holds(key_of(b"f"))
