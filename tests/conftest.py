"""Every test starts from the same random numbers, whichever order the tests come in."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    torch = sys.modules.get("torch")  # tests that do not use torch must not wait for it
    if torch is not None:
        torch.manual_seed(0)
