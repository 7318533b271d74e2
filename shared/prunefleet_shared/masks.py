"""Graded masks: what a device says about its channels, and what the sum of many such says back.

A device does not send saliencies. It ranks the channels of a group and says, for each channel, in how many of seven
nested masks it survives. The masks' keep counts are fixed by the group's size, so every device hands out the same
grades and none can shout. All arrays are numpy integers; ``scores`` may be floats and never leave the device.

>>> import numpy as np
>>> grade_channels(np.array([0.1, 0.9, 0.5, 0.7])).tolist()
[1, 7, 3, 5]
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from prunefleet_shared.layout import Layout

NUM_MASKS = 7
"""Nested masks per graded mask; a grade is 0..7 and takes 3 bits."""

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


def keep_counts(num_channels: int) -> tuple[int, ...]:
    """How many channels each of the nested masks keeps: eighths of the group, rounded half up, ascending."""
    parts = NUM_MASKS + 1
    return tuple((2 * num_channels * k + parts) // (2 * parts) for k in range(1, parts))


def half_of(num_channels: int) -> int:
    """Channels that the middle one of the nested masks keeps: half, rounded up."""
    return keep_counts(num_channels)[NUM_MASKS // 2]


def half_mask(grades_C: npt.ArrayLike) -> IntArray:
    """The middle one of the nested masks that grades stand for, as 0 and 1: the better half of each group.

    >>> import numpy as np
    >>> half_mask(np.array([1, 7, 3, 5])).tolist()
    [0, 1, 0, 1]
    """
    return (np.asarray(grades_C, dtype=np.int64) > NUM_MASKS // 2).astype(np.int64)


def descending_order(scores_C: npt.ArrayLike) -> IntArray:
    """Channel indices, best first; equal scores keep their index order, so that every machine agrees."""
    return np.argsort(-np.asarray(scores_C, dtype=np.float64), kind="stable")


def grade_channels(scores_C: npt.ArrayLike) -> IntArray:
    """Grade (0..7) of each channel of one group: the number of nested masks in which it survives."""
    order_C = descending_order(scores_C)
    return grades_by_rank(len(order_C))[np.argsort(order_C, kind="stable")]


def grades_by_rank(num_channels: int) -> IntArray:
    """Grades a group's channels get, from the best rank to the worst; fixed by the group's size alone."""
    rank_C = np.arange(num_channels)
    counts_M = np.asarray(keep_counts(num_channels))
    return np.asarray((rank_C[:, None] < counts_M[None, :]).sum(axis=1), dtype=np.int64)


def grade_layout(layout: Layout, scores_C: npt.ArrayLike) -> IntArray:
    """Graded mask over all channels of ``layout``, group by group."""
    scores = np.asarray(scores_C, dtype=np.float64)
    return np.concatenate([grade_channels(scores[part]) for part in layout.slices()])


def keep_mask(order_C: npt.ArrayLike, width: int) -> BoolArray:
    """True for the first ``width`` channels of ``order_C`` (a permutation of one group's channels)."""
    order = np.asarray(order_C, dtype=np.int64)
    mask = np.zeros(len(order), dtype=np.bool_)
    mask[order[:width]] = True
    return mask
