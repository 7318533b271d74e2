"""A coordinator that lies, and devices that collude with it: the tests of the private sum as rows of the attack report.

Each row is one lie told to honest devices (``lying_rosters``, ``lying_coordinator``), or one collusion below or above
the bound (``collusion``; above it the attack must succeed, which is the control). What ended as the test's name says is
``as_claimed``.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

from attack_statistics import Task
from result_file import ROOT, Row

TESTS = ("lying_rosters", "lying_coordinator", "collusion")
FOLDER = ROOT / "tests" / "shared" / "secure_sum"


def protocol_tasks() -> Iterator[Task]:
    """One row for each lie and each collusion."""
    for name, is_passed in _outcomes().items():
        yield {"attack": f"protocol_{name}"}, functools.partial(_row, is_passed)


def _row(is_passed: bool) -> Row:
    return {"as_claimed": is_passed}


@functools.cache
def _outcomes() -> dict[str, bool]:
    """Every test by ``file::name``, and whether it passed."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = [str(FOLDER / f"test_{name}.py") for name in TESTS]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", f"--junitxml={report}", *files]
        subprocess.run(command, cwd=ROOT, check=False, capture_output=True)
        cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - as above
        return {f"{_file(case)}::{case.get('name')}": len(case) == 0 for case in cases}


def _file(case: ET.Element) -> str:
    return str(case.get("classname")).rpartition(".")[2].removeprefix("test_")
