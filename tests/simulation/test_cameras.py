"""Cameras: uint8 in, uint8 out, one setting per device, and the generator alone decides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from prunefleet_edge.data import ImageArray
from prunefleet_simulation.cameras import CameraRange, shift
from prunefleet_simulation.presets import DIGITS

ASIS = CameraRange(rotation_deg=0, blur_pixels=0, contrast_loss=0, noise=0)
HARSH = CameraRange(rotation_deg=90, blur_pixels=3, contrast_loss=1, noise=1)


def images(channels: int = 1, num: int = 6) -> ImageArray:
    return np.random.default_rng(0).integers(0, 256, (num, 12, 10, channels), dtype=np.uint8)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("cameras", [ASIS, HARSH, DIGITS.cameras])
@pytest.mark.parametrize("level", [0, 255])
def test_pixels_stay_bytes_of_the_same_shape(channels: int, cameras: CameraRange, level: int) -> None:
    taken = images(channels)
    taken[0] = level
    shifted = shift(taken, cameras, rng())
    assert shifted.dtype == np.uint8
    assert shifted.shape == taken.shape


def test_the_images_given_are_left_alone() -> None:
    taken = images()
    before = taken.copy()
    shift(taken, HARSH, rng())
    assert (taken == before).all()


def test_a_perfect_camera_changes_nothing() -> None:
    assert (shift(images(3), ASIS, rng()) == images(3)).all()


def test_the_generator_alone_decides() -> None:
    assert (shift(images(), HARSH, rng()) == shift(images(), HARSH, rng())).all()
    assert (shift(images(), HARSH, rng()) != shift(images(), HARSH, rng(2))).any()


def test_a_device_has_one_camera() -> None:
    """Without noise, the same picture twice comes out the same twice."""
    twice = np.repeat(images(num=1), 2, axis=0)
    first, second = shift(twice, replace(HARSH, noise=0), rng())
    assert (first == second).all()


@pytest.mark.parametrize("change", ["rotation_deg", "blur_pixels", "contrast_loss", "noise"])
def test_each_range_has_its_own_effect(change: str) -> None:
    cameras = replace(ASIS, **{change: getattr(HARSH, change)})
    assert (shift(images(), cameras, rng()) != images()).any()


def test_contrast_is_lost_towards_the_middle() -> None:
    taken = np.zeros((1, 8, 8, 1), dtype=np.uint8)
    taken[:, :, 4:] = 255
    shifted = shift(taken, replace(ASIS, contrast_loss=0.5), rng()).astype(int)
    assert 0 < shifted.min() < 128 < shifted.max() < 255
    assert abs(shifted.min() + shifted.max() - 255) <= 1


def test_no_blur_across_images_or_colours() -> None:
    taken = np.zeros((3, 9, 9, 3), dtype=np.uint8)
    taken[1, :, :, 1] = 255
    shifted = shift(taken, replace(ASIS, blur_pixels=3, rotation_deg=30), rng())
    assert shifted[1, 4, 4, 1] > 0
    shifted[1, :, :, 1] = 0
    assert not shifted.any()
