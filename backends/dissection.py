"""Nested dissection: an order of elimination in which a sparse matrix of a mesh fills in least.

SciPy's own orderings (minimum degree) fill in several times more on meshes in three dimensions.  Here a graph is cut in
two by a small set of vertices, which is eliminated after both halves, and so on [George 1973].  All parts of one depth
are cut at once, so that the work is done by a few calls on long arrays: a breadth-first search from both ends of every
part says on which side a vertex is, and a least vertex cover of the edges between the sides is the separator (König).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_SMOOTHINGS = 8
"""Averages over neighbours that straighten the level sets of a breadth-first search."""


class Dissection(NamedTuple):
    """A tree of sets of vertices; children come before their parents."""

    order: Ints
    """The vertices as they are eliminated."""
    starts: Ints
    """Node k has the vertices ``order[starts[k]:starts[k + 1]]``."""
    parent: Ints
    """The parent of every node, -1 for a root."""


def nested_dissection(graph: Any, leaf: int) -> Dissection:
    """Dissect an undirected graph into parts of at most `leaf` vertices and separators.

    Parameters
    ----------
    graph : sparse matrix, shape (n, n)
        With a symmetric pattern; its values and its diagonal do not matter.
    leaf : int
    """
    graph = scipy.sparse.coo_array(graph)
    n = graph.shape[0]
    off = graph.row != graph.col
    rows, cols = graph.row[off].astype(np.int64), graph.col[off].astype(np.int64)
    node = np.full(n, -1)  # the node of the tree that a vertex belongs to
    above = np.full(n, -1)  # the node that its part hangs from
    parents: list[Ints] = []
    count = 0

    def add(members: Ints, key: Ints) -> Ints:
        """New nodes for `members`, those of one key in one node; hung where the members hang."""
        nonlocal count
        _, first, which = np.unique(key, return_index=True, return_inverse=True)
        parents.append(above[members[first]])
        node[members] = count + which
        count += len(first)
        return node[members]

    degree = np.bincount(rows, minlength=n)
    hubs = np.flatnonzero(degree > 10 * np.sqrt(n) + 40)
    if 0 < len(hubs) < n // 10:  # they join what nothing else does, and are eliminated last
        add(hubs, np.zeros(len(hubs), np.int64))
        above[:] = 0
    while True:
        active = node < 0
        inside = active[rows] & active[cols]
        rows, cols = rows[inside], cols[inside]
        live = np.flatnonzero(active)
        if not len(live):
            break
        matrix = graph_of(rows, cols, n)
        _, part = scipy.sparse.csgraph.connected_components(matrix, directed=False)
        size = np.bincount(part[live], minlength=part.max() + 1)
        small = live[size[part[live]] <= leaf]
        if len(small):
            add(small, _packed(above[small], part[small], size, leaf))
            active[small] = False
            live = live[size[part[live]] > leaf]
            if not len(live):
                break
        _, part[live] = np.unique(part[live], return_inverse=True)
        cover = _separators(matrix, live, part)
        made = add(live[cover], part[live[cover]])
        owner = np.full(part[live].max() + 1, -1)
        owner[part[live[cover]]] = made
        above[live] = owner[part[live]]
    parent = np.concatenate(parents) if parents else np.zeros(0, np.int64)
    number = _postorder(parent)
    node = number[node]
    moved = np.empty(count, np.int64)
    moved[number] = np.where(parent < 0, -1, number[parent])
    # what one part below touches stands together in a separator: its fronts are then added in few pieces
    touched = node.copy()
    np.minimum.at(touched, graph.row, node[graph.col])
    order = np.lexsort((touched, node))
    return Dissection(order, np.concatenate([[0], np.cumsum(np.bincount(node, minlength=count))]), moved)


def _postorder(parent: Ints) -> Ints:
    """The number of every node when each comes right after all that hangs from it; parents stand before children here."""
    below = np.ones(len(parent) + 1, np.int64)
    for k in range(len(parent) - 1, -1, -1):
        below[parent[k]] += below[k]  # those of -1 are counted at the end
    number, free = np.empty(len(parent), np.int64), np.zeros(len(parent) + 1, np.int64)
    for k, up in enumerate(parent):
        number[k] = free[up] + below[k] - 1
        free[k] = free[up]
        free[up] += below[k]
    return number


def _packed(above: Ints, part: Ints, size: Ints, leaf: int) -> Ints:
    """A number for each vertex of a small part: several parts that hang from one node share one, up to `leaf` together."""
    parts, first = np.unique(part, return_index=True)
    hang = above[first]
    by = np.argsort(hang, kind="stable")
    total = np.cumsum(size[parts[by]])
    begins = np.concatenate([[True], np.diff(hang[by]) != 0])
    before = np.concatenate([[0], total[:-1]])
    rest = before - before[np.maximum.accumulate(np.where(begins, np.arange(len(by)), 0))]
    number = np.empty(len(by), np.int64)
    number[by] = rest // leaf
    at = np.searchsorted(parts, part)
    return (hang[at] + 1) * (int(number.max()) + 1) + number[at]


def _separators(matrix: Any, live: Ints, part: Ints) -> NDArray[np.bool_]:
    """Which of the `live` vertices separate every part (numbered from 0 on) into two."""
    count = int(part[live].max()) + 1
    ends = np.empty(count, np.int64)
    ends[part[live]] = live
    for _ in range(2):
        far = _distances(matrix, ends)
        ends = _last(far, live, part, count)
    there = _distances(matrix, ends)
    place = (far - there).astype(np.float64)
    degree = np.maximum(np.diff(matrix.indptr), 1)
    averaging = scipy.sparse.csr_array((np.ones(matrix.nnz), matrix.indices, matrix.indptr), shape=matrix.shape)
    for _ in range(_SMOOTHINGS):
        place = (place + (averaging @ place) / degree) / 2
    by = live[np.lexsort((place[live], part[live]))]
    starts = np.searchsorted(part[by], np.arange(count + 1))
    rank = np.arange(len(by)) - starts[part[by]]
    right = np.zeros(matrix.shape[0], bool)
    right[by] = rank >= np.diff(starts)[part[by]] // 2
    cover = _vertex_cover(matrix, right)
    # a part without an edge between its sides would not be split: it is connected, so there is one
    return cover[live]


def graph_of(tails: Ints, heads: Ints, n: int, others: int | None = None) -> Any:
    """The matrix of a graph with an entry for each edge, with the indices that all of SciPy's routines for graphs take."""
    edges = tails.astype(np.int32), heads.astype(np.int32)
    return scipy.sparse.csr_array((np.ones(len(tails), np.int8), edges), shape=(n, n if others is None else others))


def _distances(matrix: Any, sources: Ints) -> Ints:
    """Steps from the source of its part to every vertex, -1 where there is none, by one search from a vertex before all."""
    n = matrix.shape[0]
    indptr = np.append(matrix.indptr, matrix.indptr[-1] + len(sources))
    indices = np.concatenate([matrix.indices, sources.astype(matrix.indices.dtype)])
    rooted = scipy.sparse.csr_array(
        (np.ones(len(indices), np.int8), indices.astype(np.int32), indptr.astype(np.int32)), shape=(n + 1, n + 1)
    )
    order, before = scipy.sparse.csgraph.breadth_first_order(rooted, n, directed=True)
    at = np.empty(n + 1, np.int64)
    at[order] = np.arange(len(order))
    # the search goes level by level: a level begins where predecessors are in the one before
    came = at[before[order[1:]]]
    depth = np.zeros(n + 1, np.int64)
    begin, level = 1, 0
    found = np.empty(len(order), np.int64)
    found[0] = 0
    while begin < len(order):
        end = 1 + int(np.searchsorted(came, begin))
        found[begin:end] = level
        begin, level = end, level + 1
    depth[:] = -1
    depth[order[1:]] = found[1:]
    return depth[:n]


def _last(far: Ints, live: Ints, part: Ints, count: int) -> Ints:
    """The vertex of every part that is farthest away."""
    ends = np.empty(count, np.int64)
    by = live[np.argsort(far[live], kind="stable")]
    ends[part[by]] = by  # the last one stays
    return ends


def _vertex_cover(matrix: Any, right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """A least set of vertices that meets every edge between the two sides [König 1931]."""
    n = len(right)
    edges = matrix.tocoo()
    across = ~right[edges.row] & right[edges.col]
    lefts, a = np.unique(edges.row[across], return_inverse=True)
    rights, b = np.unique(edges.col[across], return_inverse=True)
    between = graph_of(a, b, len(lefts), len(rights))
    mate = scipy.sparse.csgraph.maximum_bipartite_matching(between, perm_type="column")  # of every left vertex
    # what an unmatched left vertex reaches, by any edge to the right and by matched ones to the left
    k, total = len(lefts), len(lefts) + len(rights)
    matched = np.flatnonzero(mate >= 0)
    free = np.flatnonzero(mate < 0)
    tails = np.concatenate([a, k + mate[matched], np.full(len(free), total)])
    heads = np.concatenate([k + b, matched, free])
    ways = graph_of(tails, heads, total + 1)
    reached = np.zeros(total + 1, bool)
    reached[scipy.sparse.csgraph.breadth_first_order(ways, total, directed=True, return_predecessors=False)] = True
    cover = np.zeros(n, bool)
    cover[lefts[~reached[:k]]] = True
    cover[rights[reached[k:total]]] = True
    return cover
