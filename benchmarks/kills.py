"""The long form of the kill tests: coordinator and device processes killed at 50 random moments each.

    python benchmarks/kills.py

Appends a row per test to ``benchmarks/results/kills.json``: whether it passed and how long it took, on which machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from prunefleet_simulation.simulate import versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "kills.json"
KILLS = 50
TESTS = ("tests/faults/test_coordinator_kill.py", "tests/faults/test_device_kill.py")
LIMIT_S = 900


def run(test: str) -> dict[str, object]:
    """One test in its long form, as a row."""
    environment = {**os.environ, "PRUNEFLEET_KILLS": str(KILLS)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", test]
    began_s = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=LIMIT_S, check=False)
    return {
        "test": test,
        "kills": KILLS,
        "seed": 1,
        "passed": done.returncode == 0,
        "wall_s": round(time.monotonic() - began_s, 1),
        "command": "python benchmarks/kills.py",
        "versions": versions(),
    }


def main() -> int:
    """Run both; 1 if either failed."""
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for test in TESTS:
        rows.append(run(test))
        RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
        print(f"{test}: {KILLS} kills in {rows[-1]['wall_s']} s, passed: {rows[-1]['passed']}")
    return 0 if all(row["passed"] for row in rows[-len(TESTS) :]) else 1


if __name__ == "__main__":
    sys.exit(main())
