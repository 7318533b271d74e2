"""What a camera does to an image: contrast, blur, rotation and noise, one setting per device.

Devices of a fleet see the same world through different lenses; the shift is fixed per device and drawn from its seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from prunefleet_edge.data import ImageArray


@dataclass(frozen=True, slots=True)
class CameraRange:
    """How far cameras may differ.

    Attributes:
        rotation_deg: Largest tilt to either side, degrees.
        blur_pixels: Largest standard deviation of a Gaussian blur.
        contrast_loss: Largest fraction of contrast lost (half of it comes back as brightness).
        noise: Largest standard deviation of pixel noise, fraction of full scale.
    """

    rotation_deg: float
    blur_pixels: float
    contrast_loss: float
    noise: float


def shift(images: ImageArray, cameras: CameraRange, rng: np.random.Generator) -> ImageArray:
    """Images (uint8, N×H×W×C) as one camera drawn from ``cameras`` would have taken them."""
    tilt_deg = rng.uniform(-1, 1) * cameras.rotation_deg
    blur = rng.uniform(0, 1) * cameras.blur_pixels
    loss = rng.uniform(0, 1) * cameras.contrast_loss
    noise = rng.uniform(0.3, 1) * cameras.noise
    pixels = images.astype(np.float64) / 255
    pixels = ndimage.rotate(pixels, tilt_deg, axes=(1, 2), reshape=False, order=1)
    pixels = ndimage.gaussian_filter(pixels, (0, blur, blur, 0))
    pixels = pixels * (1 - loss) + loss / 2 + rng.normal(0, noise, pixels.shape)
    return np.asarray(np.rint(np.clip(pixels, 0, 1) * 255), dtype=np.uint8)
