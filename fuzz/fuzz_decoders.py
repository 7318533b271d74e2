"""Searches everything that reads what a peer sent for anything but a refusal, guided by coverage (atheris, libFuzzer).

    python fuzz/fuzz_decoders.py --seconds 600

The time is shared out evenly; what is searched is ``tests/shared/secure_sum/sum_targets.py``. Rows are appended to
``benchmarks/results/fuzz.json``. An input that crashes stays in ``--crashes``; give it to the target to see why::

    python fuzz/fuzz_decoders.py --target device FILE
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "shared" / "secure_sum")]
KEY = ("target", "started_utc")
ABOUT = {
    "executions": "inputs tried; anything but a RemoteProtocolError counts as a crash",
    "targets": "tests/shared/secure_sum/sum_targets.py",
}


def search(target: str, libfuzzer_args: list[str]) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["prunefleet_shared"], exclude=["prunefleet_shared._generated"]):
        from sum_targets import TARGETS
    check = TARGETS[target]

    def try_input(data: bytes) -> None:
        if data:
            check(data)

    atheris.Setup([sys.argv[0], *libfuzzer_args], try_input)
    atheris.Fuzz()


def row_of(target: str, seeds: list[bytes], seconds: int, started_utc: str, crashes: Path) -> dict[str, Any]:
    """Fuzz one target in a process of its own."""
    options = ["-print_final_stats=1", f"-max_total_time={seconds}", "-max_len=4096"]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / f"{number:03d}").write_bytes(seed)
        command = [
            sys.executable,
            __file__,
            "--target",
            target,
            *options,
            f"-artifact_prefix={crashes}/{target}-",
            corpus,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - this script itself
    found = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    if done.returncode:
        sys.stderr.write(done.stderr[-2000:])
    return {
        "target": target,
        "started_utc": started_utc,
        "seconds": seconds,
        "executions": int(found[1]) if found else 0,
        "branches_covered": int(covered[-1]) if covered else 0,
        "crashes": int(done.returncode != 0),
    }


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums by target, and over all."""
    names = sorted({row["target"] for row in rows})
    executions = {name: sum(row["executions"] for row in rows if row["target"] == name) for name in names}
    return {
        "executions": executions,
        "executions_in_all": sum(executions.values()),
        "crashes_in_all": sum(row["crashes"] for row in rows),
        "atheris": version("atheris"),
    }


def main(seconds: int, out: Path, crashes: Path) -> int:
    """Fuzz every target; returns how many crashed."""
    from result_file import ResultFile
    from sum_targets import TARGETS, seeds

    results = ResultFile(out, f"python fuzz/fuzz_decoders.py --seconds {seconds}", ABOUT, KEY, summarise)
    started_utc, num_crashed = datetime.now(UTC).isoformat(timespec="seconds"), 0
    for target in TARGETS:
        row = row_of(target, seeds(target), max(1, seconds // len(TARGETS)), started_utc, crashes)
        results.add([row])
        sys.stdout.write(json.dumps(row) + "\n")
        num_crashed += row["crashes"]
    return num_crashed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", help="fuzz this one here; other arguments go to libFuzzer")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "fuzz.json")
    parser.add_argument("--crashes", type=Path, default=Path(tempfile.gettempdir()))
    chosen, others = parser.parse_known_args()
    if chosen.target:
        search(chosen.target, others)
    sys.exit(1 if main(chosen.seconds, chosen.out, chosen.crashes) else 0)
