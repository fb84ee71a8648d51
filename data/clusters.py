"""Joining verified pairs into clusters: union-find with path halving and union by size (Tarjan 1975)."""

from __future__ import annotations

import numpy as np

from data.compiled import compiled

Array = np.ndarray


@compiled(inline="always")
def _root(parent: Array, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def _union(nodes: int, left: Array, right: Array) -> Array:
    parent = np.arange(nodes)
    size = np.ones(nodes, np.int64)
    for i in range(left.shape[0]):
        a, b = _root(parent, left[i]), _root(parent, right[i])
        if a == b:
            continue
        if size[a] < size[b]:
            a, b = b, a
        parent[b] = a
        size[a] += size[b]
    least = np.full(nodes, nodes)
    for node in range(nodes):
        root = _root(parent, node)
        least[root] = min(least[root], node)
    labels = np.empty(nodes, np.int64)
    for node in range(nodes):
        labels[node] = least[_root(parent, node)]
    return labels


def connected(left: Array, right: Array) -> tuple[Array, Array]:
    """The clusters that pairs (left[i], right[i]) of uint64 document numbers make.

    Returns the documents in any pair, sorted, and for each the smallest document of its cluster (both uint64).
    Memory is about 40 bytes for each document that is in a pair, whatever the size of the corpus.
    """
    documents, places = np.unique(np.concatenate([left, right]), return_inverse=True)
    labels = _union(len(documents), places[: len(left)], places[len(left) :])
    return documents, documents[labels]
