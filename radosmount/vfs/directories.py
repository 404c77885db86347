"""The directories: the root, pools, and what over-long names go on in."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import trio

from radosmount.errors import InvalidCall, NameTooLong, NoSuchEntry, NotDirectory, NotPermitted
from radosmount.store.interface import ObjectKey, Store
from radosmount.store.names import COMPONENT_BYTES_MAX, FLAT, InvalidPath, is_continuation
from radosmount.vfs.listing import DirectoryEntry, Listing, object_entries, pool_entries
from radosmount.vfs.nodes import DirectoryNode, Node, NodeTable, ObjectPlace, RootNode
from radosmount.vfs.objects import Objects
from radosmount.vfs.pools import Pools
from radosmount.vfs.statahead import StatAhead


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """One opendir(3). `stat_ahead` outlives it: names are listed first, and asked for later."""

    ino: int
    listing: Listing
    stat_ahead: StatAhead


class Directories:
    def __init__(
        self,
        store: Store,
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
        if is_continuation(name):  # has no object of its own: it is there when it is asked for
            return self._directory_node(directory.place, (*directory.path, name))
        try:
            key = _key(directory, name)
        except InvalidPath as failure:
            raise NoSuchEntry(str(failure)) from failure
        return await self._objects.look_up(key, caller)

    async def key_for_change(self, parent: int, name: bytes) -> ObjectKey:
        """The object that a file of that name is, in a pool that may be written to.

        Raises: NotPermitted in the root; InvalidCall for a name that no object has; NameTooLong;
        ReadOnly; AccessDenied.
        """
        directory = self._nodes[parent]
        if not isinstance(directory, DirectoryNode):
            raise NotPermitted("the root holds pools only: `ceph osd pool create` makes one")
        await self._pools.check_writable(directory.place.pool_id, directory.place.namespace)
        try:
            return _key(directory, name)
        except InvalidPath as failure:
            raise InvalidCall(str(failure)) from failure

    def open(self, ino: int) -> OpenDirectory:
        node = self._nodes[ino]
        if isinstance(node, RootNode):
            return self._opened(ino, pool_entries(self._pools))
        if not isinstance(node, DirectoryNode):
            raise NotDirectory(f"inode {ino}")
        return self._opened(ino, self._object_entries(node))

    def listed_node(self, opened: OpenDirectory, entry: DirectoryEntry) -> Node:
        """The inode of an entry that was listed."""
        if isinstance(entry.target, ObjectKey):
            node = self._objects.known(entry.target)
            if node.stat_ahead is not opened.stat_ahead:
                opened.stat_ahead.add(node)
            return node
        if isinstance(entry.target, ObjectPlace):
            return self._directory_node(entry.target, ())
        parent = self._nodes[opened.ino]
        assert isinstance(parent, DirectoryNode)
        return self._directory_node(parent.place, (*parent.path, entry.name))

    def _opened(self, ino: int, batches: AsyncIterator[list[DirectoryEntry]]) -> OpenDirectory:
        stat_ahead = StatAhead(self._nursery, self._objects.revalidate)
        return OpenDirectory(ino, Listing(batches), stat_ahead)

    def _object_entries(self, node: DirectoryNode) -> AsyncIterator[list[DirectoryEntry]]:
        place = node.place
        objects = self._store.list_objects(place.pool_id, place.namespace)
        unstored = [
            other.file.key
            for other in self._nodes.files()
            if other.file.is_new and not other.file.is_unlinked and place.holds(other.file.key)
        ]
        return object_entries(place, node.path, objects, unstored)

    def _directory_node(self, place: ObjectPlace, path: tuple[bytes, ...]) -> Node:
        node = DirectoryNode(place, path)
        known = self._nodes.find(node.identity)
        if known is None:
            self._nodes.add(node)
        return known or node


def _key(directory: DirectoryNode, name: bytes) -> ObjectKey:
    if len(name) > COMPONENT_BYTES_MAX:  # the kernel lets through more
        raise NameTooLong(f"a component of {len(name)} bytes")
    found = FLAT.object_of((*directory.path, name))
    place = directory.place
    return ObjectKey(place.pool_id, place.namespace, found.name, found.locator)
