"""Matrices without their blocks of zeros: the layout for the compiled loop.

A **block** is one word of 16 columns, that is 16 outputs x 1 input in fp32, x 2 in bf16 and x 4 in int8. A group of 16
columns keeps its blocks that are not zero, in the order of k, so the sums are those of the dense product. A **tile** is
some groups with about equally many blocks, of which one pass of the product takes one each. A group with fewer blocks
than its tile has blocks of zeros at its end. In words, each tile is:

    count, and the first column of each group in bytes           (RECORD words)
    for each of count passes, each group's input in bytes        (count x groups, padded to a multiple of 16)
    as in a dense panel: the header and one word per column      (header + count, 16 x groups)
"""

import numpy as np

#: Columns of a group.
GROUP = 16
#: Words before the indices of a tile.
RECORD = 16
#: A matrix is stored without its blocks of zeros if the others, with those that fill the tiles, are at most this share.
LARGEST_SHARE = 0.75


def pack_sparse(words: np.ndarray, header: int, rows: int, groups: int) -> np.ndarray | None:
    """A matrix ``(header + k, columns)`` of words without its blocks of zeros; None if it has too few of them.

    Args:
        words: the matrix in the format of the product.
        header: rows before those of k.
        rows: of k that are not padding.
        groups: of a tile.
    """
    columns = words.shape[1]
    if columns % GROUP:
        return None
    is_used = (words[header:] != 0).reshape(-1, columns // GROUP, GROUP).any(axis=2)  # (k, groups of the matrix)
    counts = is_used.sum(axis=0)
    tiles = np.array_split(np.argsort(-counts, kind="stable"), -(-len(counts) // groups))
    passes = [max(1, counts[tile].max()) for tile in tiles]
    if sum(passes) * groups > LARGEST_SHARE * rows * len(counts):
        return None
    return np.concatenate([_pack_tile(words, header, is_used, tile, count, groups)
                           for tile, count in zip(tiles, passes, strict=True)])  # fmt: skip


def _pack_tile(
    words: np.ndarray, header: int, is_used: np.ndarray, tile: np.ndarray, count: int, groups: int
) -> np.ndarray:
    # A group that is missing in the tile adds zero to the columns of another. It is stored before that one.
    tile = np.concatenate([np.full(groups - len(tile), tile[0]), tile])
    is_missing = np.arange(groups) < groups - len(np.unique(tile))
    record = np.zeros(RECORD, np.int32)
    record[0], record[1 : 1 + groups] = count, 4 * GROUP * tile
    inputs = np.zeros(-(-groups * count // 16) * 16, np.int32)
    panel = np.zeros((header + count, groups, GROUP), words.dtype)
    for place, group in enumerate(tile):
        used = np.flatnonzero(is_used[:, group])[: 0 if is_missing[place] else None]
        inputs[place : groups * len(used) : groups] = 4 * used
        block = words[:, GROUP * group : GROUP * (group + 1)]
        panel[:header, place] = 0 if is_missing[place] else block[:header]
        panel[header : header + len(used), place] = block[header + used]
    return np.concatenate([record.view(words.dtype), inputs.view(words.dtype), panel.reshape(-1)])
