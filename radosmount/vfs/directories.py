"""The directories: the root, pools, what over-long names go on in, and those of the tree view.

In the tree view a `/` of an object's name separates directories. One is there where any object
lies below it, or where it has a marker: the empty object `d/`, which mkdir makes. Of a name that
is both, a file and a directory, the directory takes the name; the file has its second spelling.
"""

import contextlib
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from stat import S_IFDIR, S_IFREG
from typing import Final

import trio

from radosmount import switching
from radosmount.config import NamesMode, ViewConfig
from radosmount.errors import (
    CrossPool,
    DirectoryNotEmpty,
    EntryExists,
    InvalidCall,
    NameTooLong,
    NoSuchEntry,
    NotDirectory,
    NotPermitted,
    ObjectNotFound,
    StoreError,
)
from radosmount.store.interface import ObjectKey, ObjectStat, Store
from radosmount.store.names import (
    BESIDE_DIRECTORY,
    COMPONENT_BYTES_MAX,
    TREE,
    InvalidPath,
    Path,
    is_continuation,
    pool_of,
)
from radosmount.vfs import keys
from radosmount.vfs.forest import Forest
from radosmount.vfs.handles import HandleTable, OpenDirectory
from radosmount.vfs.listing import (
    DirectoryEntry,
    Listing,
    no_entries,
    object_entries,
    pool_entries,
    tree_entries,
)
from radosmount.vfs.lookahead import LookAhead
from radosmount.vfs.nodes import (
    DirectoryNode,
    Node,
    NodeTable,
    ObjectPlace,
    RootNode,
)
from radosmount.vfs.objects import Objects
from radosmount.vfs.pools import Pools
from radosmount.vfs.statahead import StatAhead
from radosmount.vfs.vanished import Vanished

# A directory without a marker is there because of its objects' names: who looks it up goes by the
# index, and has an older one made anew. What this mount makes or removes is known at once.
IMPLIED_FRESHNESS_S: Final = 30.0
# How long what was heard of a marker answers: every path through a directory looks it up.
MARKER_FRESHNESS_S: Final = 1.0
# The directory of a pool below which its namespaces are, by name; reserved by the grammar.
NAMESPACES: Final = b".nspace"
# So many names of a directory come with their inodes, so that the kernel asks for each by number,
# in an order that `StatAhead` meets; those behind them only if one of these was asked for by then.
# fts(3) (find, du, rm -r) reads all names first, and asks for more than 10,000 in another order.
INODE_COUNT: Final = 10_000
BARE_NAMES_A_REPLY: Final = 1000

# Name, number and type bits of an entry.
BareName = tuple[bytes, int, int]


class Directories:
    def __init__(
        self,
        store: Store,
        view: ViewConfig,
        nodes: NodeTable,
        pools: Pools,
        objects: Objects,
        nursery: trio.Nursery,
    ) -> None:
        self._nursery = nursery
        self._store = store
        self._nodes = nodes
        self._pools = pools
        self._objects = objects
        self._has_posix = view.has_posix
        self._is_tree = view.names is NamesMode.TREE
        self._forest = Forest(store, nodes, nursery)
        self.handles: HandleTable[OpenDirectory] = HandleTable()
        self._vanished = Vanished()
        nodes.watch(self._note)

    async def warm_up(self, place: ObjectPlace) -> None:
        """Have the index of names before the first look-up needs it. What fails then says so."""
        if self._is_tree:
            await self._forest.tree(place).refresh(math.inf)

    # Names

    async def child(self, parent: int, name: bytes, caller: int) -> Node:
        """Raises: NoSuchEntry; NameTooLong."""
        directory = self._nodes[parent]
        if isinstance(directory, RootNode):
            pool = await self._pools.find(name)
            if pool is None:
                raise NoSuchEntry(f"no pool {name!r}")
            return self._directory_node(ObjectPlace(pool.pool_id, b""), ())
        if not isinstance(directory, DirectoryNode):
            raise NotDirectory(f"{name!r}")
        if directory.path == (NAMESPACES,):
            return self._namespace(directory.place.pool_id, name)
        # These have no object of their own: they are there when they are asked for.
        if is_continuation(name) or (name == NAMESPACES and _holds_namespaces(directory, name)):
            return self._directory_node(directory.place, (*directory.path, name))
        if self._is_tree:
            return await self._child_of_tree(directory, name, caller)
        key = keys.of_file(directory.place, (*directory.path, name))
        if self._objects.has_just_removed(key, caller):
            raise NoSuchEntry(f"{name!r}")
        return await self._objects.look_up(key, caller)

    async def key_for_change(self, parent: int, name: bytes) -> ObjectKey:
        """The object that a file of that name is, in a pool that may be written to.

        Raises: NotPermitted in the root; InvalidCall for a name that no object has; NameTooLong;
        ReadOnly; AccessDenied.
        """
        directory = await self._writable(parent)
        try:
            path = (*directory.path, name)
            if self._is_tree:
                return self._keys(directory.place, path)[0]
            return keys.of_file(directory.place, path)
        except NoSuchEntry as failure:
            raise InvalidCall(str(failure)) from failure

    async def check_no_directory(self, parent: int, name: bytes) -> None:
        """Raises: CrossPool for the name of a directory, as far as is known; NotPermitted for
        that of all namespaces; as `key_for_change`."""
        directory = await self._writable(parent)
        if _holds_namespaces(directory, name):
            raise NotPermitted("namespaces are made by their first objects")
        node = DirectoryNode(directory.place, (*directory.path, name))
        if is_continuation(name) or (self._is_tree and self._has_directory(node)):
            raise CrossPool("RADOS renames no directories: mv copies")

    # Directories of the tree view

    async def key_for_new(self, parent: int, name: bytes) -> ObjectKey:
        """The marker to be made by mkdir(2). Raises: EntryExists; as `key_for_change`."""
        node = await self._below(parent, name)
        key = self._marker(node)
        if await self._is_there(node):
            raise EntryExists(f"{name!r}")
        return key

    async def key_for_removal(self, parent: int, name: bytes) -> ObjectKey | None:
        """The marker to be removed by rmdir(2); None where there is none to remove: what a name
        goes on in is there whenever it is asked for.

        Raises: DirectoryNotEmpty where anything else lies below it, by anyone's writing;
        NoSuchEntry; as `key_for_change`.
        """
        if is_continuation(name):
            await self._check_empty(parent, name)
            return None
        node = await self._below(parent, name)
        index = await self._forest.tree(node.place).index(0.0)
        if not index.has_directory(node.path):
            raise NoSuchEntry(f"{name!r}")
        if not index.is_bare(node.path):
            raise DirectoryNotEmpty(f"{name!r}")
        return self._marker(node)

    def made(self, parent: int, name: bytes, marker: ObjectStat) -> DirectoryNode:
        """The inode of a directory whose marker was just made."""
        directory = self._nodes[parent]
        assert isinstance(directory, DirectoryNode)
        node = DirectoryNode(directory.place, (*directory.path, name))
        return self.take_marker(node, marker)

    def removed(self, parent: int, name: bytes) -> None:
        """rmdir(2) has succeeded. The kernel refuses everything in an inode that it has seen
        removed: a directory that is made in its place needs another, as long as it is in use."""
        directory = self._nodes[parent]
        assert isinstance(directory, DirectoryNode)
        known = self._nodes.find(DirectoryNode(directory.place, (*directory.path, name)).identity)
        if isinstance(known, DirectoryNode):
            known.is_removed = True
            self._nodes.unlink(known)

    # What a directory shows of itself

    async def refresh(self, node: DirectoryNode) -> None:
        """Hear what its marker is now, if it may have one. Raises: StoreError."""
        if node.is_removed:  # the marker of that name, if there is one, is another's
            return
        index = self._forest.index(node.place)
        if index is None or not index.has_marker(node.path):
            node.marker = None
        elif (
            switching.current_time() - node.heard_s >= MARKER_FRESHNESS_S
            and await self._is_marked(node)
        ):
            node.heard_s = switching.current_time()

    def marker_of(self, node: DirectoryNode) -> ObjectKey | None:
        """The object that has what is kept of a directory; None for a pool or namespace."""
        is_place = not node.path or not self._is_tree or is_continuation(node.path[-1])
        return None if is_place or node.path == (NAMESPACES,) else self._marker(node)

    def take_marker(self, node: DirectoryNode, marker: ObjectStat) -> DirectoryNode:
        """The inode of a directory (`node` itself may be none), whose marker is that now."""
        known = self._directory_node(node.place, node.path)
        self._forest.note(self._marker(node), True)
        known.marker, known.heard_s = marker, switching.current_time()
        return known

    def note_changed(self, ino: int) -> None:
        """This mount has made or removed a name in it."""
        node = self._nodes[ino]
        if isinstance(node, DirectoryNode):
            node.changed_ns = time.time_ns()

    def link_count(self, node: Node) -> int:
        """As in most Unix file systems: two, and one for each directory in it that is known; none
        of one that is removed."""
        if isinstance(node, RootNode):
            return 2 + len(self._pools.visible())
        if isinstance(node, DirectoryNode) and node.is_removed:
            return 0
        if not isinstance(node, DirectoryNode):
            return 2
        index = self._forest.index(node.place)
        return 2 if index is None else 2 + index.subdirectory_count(node.path)

    # Listing

    def open(self, ino: int) -> int:
        node = self._nodes[ino]
        if isinstance(node, RootNode):
            return self._opened(ino, pool_entries(self._pools))
        if not isinstance(node, DirectoryNode):
            raise NotDirectory(f"inode {ino}")
        if node.path == (NAMESPACES,):
            return self._opened(ino, no_entries())
        if self._is_tree:
            tree = self._forest.tree(node.place)
            return self._opened(ino, tree_entries(tree, node.place, node.path))
        return self._opened(ino, self._object_entries(node))

    def has_left(self, opened: OpenDirectory, entry: DirectoryEntry) -> bool:
        """Whether this mount has removed the entry since the directory was opened. The kernel
        would keep its name for a while, and could not make it anew."""
        is_all_there = opened.vanished_count == self._vanished.count
        if is_all_there or isinstance(entry.target, ObjectPlace):
            return False
        if entry.target is not None:
            return self._vanished.has(entry.target, opened.vanished_count)
        directory = self._nodes[opened.ino]
        assert isinstance(directory, DirectoryNode)
        index = self._forest.index(directory.place) if self._is_tree else None
        return index is not None and not index.has_directory((*directory.path, entry.name))

    def listed_node(self, opened: OpenDirectory, entry: DirectoryEntry, is_told: bool) -> Node:
        """The inode of an entry that was listed. `is_told`: with its attributes."""
        if isinstance(entry.target, ObjectKey):
            node = self._objects.known(entry.target)
            if not is_told and node.stat_ahead is not opened.stat_ahead:
                opened.stat_ahead.add(node)
            return node
        if isinstance(entry.target, ObjectPlace):
            return self._directory_node(entry.target, ())
        parent = self._nodes[opened.ino]
        assert isinstance(parent, DirectoryNode)
        return self._directory_node(parent.place, (*parent.path, entry.name))

    def is_bare(self, opened: OpenDirectory, index: int) -> bool:
        """Whether the entries from that number on need no inodes. With `posix` they do: the type
        of a name is not known before its object is asked for."""
        if index < INODE_COUNT or self._has_posix or opened.stat_ahead.has_been_asked:
            return False
        return isinstance(self._nodes[opened.ino], DirectoryNode)

    def bare_names(self, opened: OpenDirectory, index: int) -> Iterator[BareName]:
        """What is known of the entries from that number on."""
        number, file_number = self._nodes.number, self._nodes.file_number
        directory = self._nodes[opened.ino]
        assert isinstance(directory, DirectoryNode)
        for name, target in opened.listing.window(index, BARE_NAMES_A_REPLY):
            if isinstance(target, ObjectKey):
                yield name, file_number(target), S_IFREG
            else:
                below = DirectoryNode(directory.place, (*directory.path, name))
                yield name, number(below.identity), S_IFDIR

    # Inside

    async def _child_of_tree(self, directory: DirectoryNode, name: bytes, caller: int) -> Node:
        """Of a name that is both, only the index tells that it is a directory, too."""
        place, path = directory.place, (*directory.path, name)
        tree = self._forest.tree(place)
        index = tree.known(IMPLIED_FRESHNESS_S)
        if index is None:
            with contextlib.suppress(StoreError):  # who asks for one need not have the others
                index = await tree.current(IMPLIED_FRESHNESS_S)
        is_file, is_directory = (False, False) if index is None else index.what_has(path)
        if is_directory:
            return await self._known_node(DirectoryNode(place, path))
        key, possible_marker = self._keys(place, path)
        if self._objects.has_just_removed(key, caller) and tree.lacks(path, IMPLIED_FRESHNESS_S):
            raise NoSuchEntry(f"{name!r}")
        marker_key = None if is_file else possible_marker
        is_marker_asked, marker = False, None

        async def ask_both(key: ObjectKey) -> ObjectStat:
            """The object and the marker at once."""
            nonlocal is_marker_asked, marker
            assert marker_key is not None
            found, marker = await self._store.stat_or_other(key, marker_key)
            if found is None:
                is_marker_asked = True
                raise ObjectNotFound(f"{key.name!r}")
            return found

        try:
            return await self._objects.look_up(key, caller, ask_both if marker_key else None)
        except NoSuchEntry:
            if is_marker_asked and marker is None and tree.lacks(path, IMPLIED_FRESHNESS_S):
                raise
            self._forest.note_heard_gone(key)
            node = DirectoryNode(place, path)
            if is_marker_asked and marker_key:
                is_marked = self._note_marker(node, marker_key, marker)
            else:
                is_marked = await self._is_marked(node)
            if not is_marked and not await self._is_implied(node):
                raise
            if node.marker is None:
                return self._directory_node(node.place, node.path)
        return self.take_marker(node, node.marker)

    async def _is_there(self, node: DirectoryNode) -> bool:
        """Whether it has a marker, or objects below it."""
        return await self._is_marked(node) or await self._is_implied(node)

    async def _is_marked(self, node: DirectoryNode) -> bool:
        try:
            marker = self._marker(node)
        except InvalidCall:
            return False
        found: ObjectStat | None = None
        with contextlib.suppress(ObjectNotFound):
            found = await self._store.stat(marker)
        return self._note_marker(node, marker, found)

    def _note_marker(self, node: DirectoryNode, key: ObjectKey, found: ObjectStat | None) -> bool:
        """Whether it is there."""
        node.marker = found
        if found is None:
            self._forest.note_heard_gone(key)
        else:
            self._forest.note(key, True)
        return found is not None

    async def _is_implied(self, node: DirectoryNode) -> bool:
        index = await self._forest.tree(node.place).latest(IMPLIED_FRESHNESS_S)
        return index.has_directory(node.path)

    def _has_directory(self, node: DirectoryNode) -> bool:
        index = self._forest.index(node.place)
        return index is not None and index.has_directory(node.path)

    def _keys(self, place: ObjectPlace, path: Path) -> tuple[ObjectKey, ObjectKey | None]:
        """The file and the directory's marker of a path of the tree view, if there can be one.

        Raises: NoSuchEntry for a name that no object has; NameTooLong.
        """
        if path[-1].endswith(BESIDE_DIRECTORY) and self._is_beside(place, path):
            return keys.of_file(place, path, TREE, is_beside=True), keys.marker(place, path)
        return keys.of_tree(place, path)

    def _is_beside(self, place: ObjectPlace, path: Path) -> bool:
        """Whether it is the second spelling of a file whose first one is a directory's."""
        try:
            found = TREE.object_of(path, beside_directory=True)
        except InvalidPath:
            return False
        return self._has_directory(DirectoryNode(place, TREE.path_of(*found)))

    async def _check_empty(self, parent: int, name: bytes) -> None:
        """Raises: DirectoryNotEmpty; as `key_for_change`."""
        directory = await self._writable(parent)
        node = DirectoryNode(directory.place, (*directory.path, name))
        if self._is_tree:
            index = await self._forest.tree(node.place).index(0.0)
            is_empty = not index.has_directory(node.path)
        else:
            async with contextlib.aclosing(self._object_entries(node)) as batches:
                is_empty = not any([bool(batch) async for batch in batches])
        if not is_empty:
            raise DirectoryNotEmpty(f"{name!r}")

    async def _below(self, parent: int, name: bytes) -> DirectoryNode:
        directory = await self._writable(parent)
        if _holds_namespaces(directory, name):
            raise NotPermitted("namespaces are made by their first objects")
        if not self._is_tree:
            raise NotPermitted("names=flat has no directories")
        if len(name) > COMPONENT_BYTES_MAX:
            raise NameTooLong(f"a component of {len(name)} bytes")
        return DirectoryNode(directory.place, (*directory.path, name))

    async def _writable(self, parent: int) -> DirectoryNode:
        directory = self._nodes[parent]
        if not isinstance(directory, DirectoryNode):
            raise NotPermitted("the root holds pools only: `ceph osd pool create` makes one")
        if directory.path == (NAMESPACES,):
            raise NotPermitted("a namespace is made by its first object")
        await self._pools.check_writable(directory.place)
        return directory

    def _namespace(self, pool_id: int, component: bytes) -> Node:
        """Its directory. RADOS does not tell whether it has any objects, nor need it."""
        try:
            namespace = pool_of(component)
        except InvalidPath as failure:
            raise NoSuchEntry(str(failure)) from failure
        return self._directory_node(ObjectPlace(pool_id, namespace), ())

    def _marker(self, node: DirectoryNode) -> ObjectKey:
        """Raises: InvalidCall where no object lies below a directory of that path."""
        key = keys.marker(node.place, node.path)
        if key is None:
            raise InvalidCall(f"no directory of the tree: {b'/'.join(node.path)!r}")
        return key

    def _opened(self, ino: int, batches: AsyncIterator[list[DirectoryEntry]]) -> int:
        listing = Listing(batches)
        stat_ahead = StatAhead(self._nursery, self._objects.revalidate)
        look_ahead = LookAhead(
            self._store, listing, self._nursery, self._objects.enter_listed, self._has_posix
        )
        if not self.handles:
            self._vanished.forget()
        vanished_count = self._vanished.count
        return self.handles.add(OpenDirectory(ino, listing, stat_ahead, look_ahead, vanished_count))

    def _note(self, key: ObjectKey, is_there: bool | None) -> None:
        """See `NodeTable.watch`."""
        if self._is_tree:
            self._forest.note(key, is_there)
        if is_there is not None and self.handles:
            self._vanished.note(key, is_there)

    def _object_entries(self, node: DirectoryNode) -> AsyncGenerator[list[DirectoryEntry], None]:
        place = node.place
        objects = self._store.list_objects(place.pool_id, place.namespace)
        return object_entries(place, node.path, objects, self._nodes.unlisted(place))

    async def _known_node(self, node: DirectoryNode) -> DirectoryNode:
        """The inode of a directory that the index has. Raises: NoSuchEntry where its marker was
        all of it, and is gone."""
        known = self._nodes.find(node.identity)
        if isinstance(known, DirectoryNode):
            node.marker, node.heard_s = known.marker, known.heard_s
        await self.refresh(node)
        if not self._has_directory(node):
            raise NoSuchEntry(f"{node.path[-1]!r}")
        known = self._directory_node(node.place, node.path)  # it may be another by now
        known.marker, known.heard_s = node.marker, node.heard_s
        return known

    def _directory_node(self, place: ObjectPlace, path: Path) -> DirectoryNode:
        node = DirectoryNode(place, path)
        known = self._nodes.find(node.identity)
        if known is None:
            self._nodes.add(node)
            return node
        assert isinstance(known, DirectoryNode)
        return known


def _holds_namespaces(directory: DirectoryNode, name: bytes) -> bool:
    is_pool = not directory.path and not directory.place.namespace
    return is_pool and name == NAMESPACES
