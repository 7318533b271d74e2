"""Print what pip needs for some extras, one requirement a line, without the project itself.

For images: requirements change seldom, sources often, so they go into a layer of their own.

    python tools/list_requirements.py edge simulation
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def requirements(extras: list[str]) -> list[str]:
    """The project's dependencies and those of ``extras``.

    Raises:
        KeyError: No such extra.
    """
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(sys.argv[1:])) + "\n")
