"""The data source ``digits:private`` or ``digits:public``: scikit-learn's handwritten digits, for trying things out.

The public third is the same for everyone; the trainer has it. A private part is drawn from the rest by the device's
name: 5 of 10 classes, 40 images, one camera. Devices with different names may share images (there are 1,200), never
one with the public third. Registered under the entry-point group ``prunefleet.data``.
"""

from __future__ import annotations

import numpy as np

from prunefleet_edge.data import ImageArray, LabelArray
from prunefleet_shared.documents import digest
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.masks import IntArray
from prunefleet_simulation.cameras import shift
from prunefleet_simulation.fleet_data import digits_pool, stratified_cut
from prunefleet_simulation.presets import DIGITS

CLASSES_PER_DEVICE = 5
_SPLIT_SEED = 0xD161


def load(argument: str, name: str) -> tuple[ImageArray, LabelArray]:
    """Images (uint8, N×12×12×1) and labels of a part.

    Args:
        argument: ``public`` or ``private``.
        name: The device's; the same name always draws the same part.

    Raises:
        ConfigError: Another argument (the user's to mend).
    """
    pool = digits_pool()
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(pool))
    cut = int(len(pool) * DIGITS.public_ratio)
    if argument == "public":
        public = pool[np.sort(order[:cut])]
        return public.images, public.labels
    if argument != "private":
        msg = f"digits: expected digits:private or digits:public, got digits:{argument}"
        raise ConfigError(msg)
    return _private(order[cut:], name)


def _private(candidates: IntArray, name: str) -> tuple[ImageArray, LabelArray]:
    pool, rng = digits_pool(), np.random.default_rng(int(digest(name.encode())[:16], 16))
    classes = rng.choice(np.unique(pool.labels), CLASSES_PER_DEVICE, replace=False)
    mine = rng.permutation(candidates[np.isin(pool.labels[candidates], classes)])
    index, _ = stratified_cut(pool.labels[mine], DIGITS.images_per_device)
    part = pool[mine[index]]
    images = part.images if DIGITS.cameras is None else shift(part.images, DIGITS.cameras, rng)
    return images, part.labels
