"""The digits as a data source: the same part for the same name, and nothing of the public part in a private one."""

from __future__ import annotations

import numpy as np
import pytest

from prunefleet_edge.data_source import examine_source, load_source
from prunefleet_edge.models import parse_spec
from prunefleet_shared.errors import ConfigError
from prunefleet_simulation import digits_source
from prunefleet_simulation.digits_source import load
from prunefleet_simulation.fleet_data import digits_pool

NAMES = [f"device-{number}" for number in range(20)]


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cameras, so that images can be recognised."""
    monkeypatch.setattr(digits_source, "shift", lambda images, cameras, rng: images)


@pytest.mark.parametrize("name", NAMES[:5])
def test_a_private_part_has_five_classes_and_forty_images(name: str) -> None:
    images, labels = load("private", name)
    assert images.shape == (40, 12, 12, 1)
    assert images.dtype == np.uint8
    assert len(np.unique(labels)) == 5


def test_the_name_draws_the_part() -> None:
    first, again, other = (load("private", name) for name in ("a", "a", "b"))
    assert (first[0] == again[0]).all()
    assert first[0].shape != other[0].shape or (first[0] != other[0]).any()


def test_nobody_has_a_public_image(plain: None) -> None:
    public = {image.tobytes() for image in load("public", "trainer")[0]}
    assert len(public) > 590
    twins = _twins()
    for name in NAMES:
        assert not {image.tobytes() for image in load("private", name)[0]} & (public - twins)


def _twins() -> set[bytes]:
    """Images that are in the digits more than once."""
    bodies, counts = np.unique([image.tobytes() for image in digits_pool().images], return_counts=True)
    return {bytes(body) for body in bodies[counts > 1]}


def test_the_public_part_is_the_same_for_everyone_and_has_all_classes() -> None:
    one, other = load("public", "a"), load("public", "b")
    assert (one[0] == other[0]).all()
    assert sorted(np.unique(one[1])) == list(range(10))


def test_it_is_registered() -> None:
    assert examine_source("digits:private", "device-1").num_images == 40
    assert len(load_source("digits:public", parse_spec("resnet8/1x12x12/10"), "trainer").samples) == 599


def test_another_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="digits:private or digits:public"):
        load("secret", "x")
