"""The trees of the pools and namespaces that were used last. Any name is a namespace: an index of
names is not kept of all.
"""

import math
from collections import OrderedDict
from typing import Final

import trio

from radosmount.store.interface import ObjectKey, Store
from radosmount.vfs.nameindex import NameIndex
from radosmount.vfs.nodes import NodeTable, ObjectPlace
from radosmount.vfs.trees import Tree

TREE_COUNT_MAX: Final = 64


class Forest:
    def __init__(self, store: Store, nodes: NodeTable, nursery: trio.Nursery) -> None:
        self._store = store
        self._nodes = nodes
        self._nursery = nursery
        # By ObjectPlace; the last used at the end.
        self._trees: OrderedDict[tuple[int, bytes], Tree] = OrderedDict()

    def tree(self, place: ObjectPlace) -> Tree:
        tree = self._trees.get(place)
        if tree is None:
            tree = Tree(self._store, place, self._nursery, lambda: self._nodes.unlisted(place))
            self._trees[place] = tree
            if len(self._trees) > TREE_COUNT_MAX:
                self._trees.popitem(last=False)
        self._trees.move_to_end(place)
        return tree

    def index(self, place: ObjectPlace) -> NameIndex | None:
        """The names that are known of it, however old; nobody is asked."""
        tree = self._trees.get(place)
        if tree is None:
            return None
        self._trees.move_to_end(place)
        return tree.known(math.inf)

    def note(self, key: ObjectKey, is_there: bool | None) -> None:
        """An object is there, or not any more; None: either."""
        tree = self._trees.get(key[:2])  # equal to its ObjectPlace
        if tree is not None:
            tree.note(key, is_there)

    def note_heard_gone(self, key: ObjectKey) -> None:
        tree = self._trees.get(key[:2])
        if tree is not None:
            tree.note_heard_gone(key)
