"""Lets the tests of this folder import the world they share (importlib mode puts no folder on the path)."""

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # typer imports names that click 8.5 deprecates
    from operator_world import World, running_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Coordinator and authority on loopback, scripted; an operator and a trainer who have joined."""
    with running_world(tmp_path / "members") as world:
        yield world
