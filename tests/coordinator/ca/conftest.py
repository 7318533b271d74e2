"""Lets the tests of this folder import the world they share (importlib mode puts no folder on the path)."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def state(tmp_path):
    from authority_world import make_state

    return make_state(tmp_path / "ca")


@pytest.fixture
def core(state):
    from authority_world import Core

    core = Core(state)
    yield core
    core.store.close()
