"""Who may import whom, what may not be called, and how long things may get: the house rules, read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "prunefleet_shared": ROOT / "shared" / "prunefleet_shared",
    "prunefleet_edge": ROOT / "edge_client" / "prunefleet_edge",
    "prunefleet_coordinator": ROOT / "coordinator" / "prunefleet_coordinator",
    "prunefleet_trainer": ROOT / "trainer" / "prunefleet_trainer",
    "prunefleet_simulation": ROOT / "simulation" / "prunefleet_simulation",
}
MAY_IMPORT = {
    "prunefleet_shared": set(),
    "prunefleet_edge": {"prunefleet_shared"},
    "prunefleet_coordinator": {"prunefleet_shared"},
    "prunefleet_trainer": {"prunefleet_shared", "prunefleet_edge"},
    "prunefleet_simulation": set(PACKAGES),
}
PURE_MODULES = [
    *(
        f"prunefleet_shared.{name}"
        for name in [
            "messages",
            "masks",
            "lanes",
            "layout",
            "metrics",
            "campaign",
            "private_sum",
            "decision_rules",
            "limits",
        ]
    ),
    *(f"prunefleet_edge.{name}" for name in ["round", "events", "device_state", "backoff", "egress", "gate"]),
    *(f"prunefleet_coordinator.{name}" for name in ["round", "admission", "aggregation", "budget", "order_rules"]),
]
HEAVY = {"grpc", "flwr", "google.protobuf", "torch", "sqlalchemy", "sqlite3"}
UNSAFE_MODULES = {"pickle", "cPickle", "shelve", "dill", "cloudpickle", "marshal"}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 40

SOURCES = [
    path for folder in PACKAGES.values() for path in sorted(folder.rglob("*.py")) if "_generated" not in path.parts
]


def name_of(path: Path) -> str:
    """``prunefleet_edge/egress.py``: the package folder and the file within it."""
    package = next(folder for folder in PACKAGES.values() if folder in path.parents)
    return f"{package.name}/{path.relative_to(package).as_posix()}"


all_sources = pytest.mark.parametrize("path", SOURCES, ids=name_of)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> Iterator[str]:
    """Every module a file imports, anywhere in it; ``from a import b`` gives ``a`` and ``a.b``."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path.name}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(path: Path) -> set[str]:
    return {module.partition(".")[0] for module in imported(path)}


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the text of what is called."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def docstring_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    return (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(node) is not None else 0


@pytest.mark.parametrize("module", PURE_MODULES)
def test_the_cores_import_nothing_heavy(module: str) -> None:
    script = f"import sys, {module}; print(*sorted(m for m in {sorted(HEAVY)} if m in sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.split() == []


@all_sources
def test_components_import_only_what_they_may(path: Path) -> None:
    package = name_of(path).partition("/")[0]
    foreign = (roots(path) & set(PACKAGES)) - {package}
    assert foreign <= MAY_IMPORT[package]


@all_sources
def test_only_the_wire_knows_the_generated_code(path: Path) -> None:
    knows = any("_generated" in module for module in imported(path))
    assert not knows or re.fullmatch(r"prunefleet_shared/wire(_\w+)?\.py", name_of(path))


@all_sources
def test_torch_stays_off_the_coordinator_and_the_shared_part(path: Path) -> None:
    if name_of(path).startswith(("prunefleet_coordinator/", "prunefleet_shared/")):
        assert not roots(path) & {"torch", "torchvision", "torch_pruning", "safetensors"}


def test_flower_stays_in_one_module() -> None:
    users = [name_of(path) for path in SOURCES if "flwr" in roots(path)]
    assert len(users) <= 1, users


def test_only_the_egress_sends_from_a_device() -> None:
    senders = {
        name_of(path)
        for path in SOURCES
        if name_of(path).startswith("prunefleet_edge/") and any(name.endswith(".call") for name, _ in calls(path))
    }
    assert {name for name in senders if not name.endswith("_carrier.py")} == {"prunefleet_edge/egress.py"}


def test_the_egress_cannot_see_data_or_training() -> None:
    """What it imports, and what those import, is a list short enough to read."""
    script = (
        "import sys, prunefleet_edge.egress; print(*sorted(m for m in sys.modules if m.startswith('prunefleet_edge.')))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603
    assert result.stdout.split() == [f"prunefleet_edge.{name}" for name in ("device", "egress")]


@all_sources
def test_nothing_unsafe_is_imported_or_called(path: Path) -> None:
    assert not roots(path) & UNSAFE_MODULES
    for name, call in calls(path):
        assert name not in {"eval", "exec", "__import__"}, f"line {call.lineno}: {name}"
        if name == "torch.load":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            assert options.get("weights_only") == "True", f"line {call.lineno}: torch.load runs code"
    assert "torch.load" not in set(imported(path)), "import torch and call torch.load, so that this test sees it"


@all_sources
def test_modules_and_functions_stay_short(path: Path) -> None:
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= MAX_MODULE_LINES
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1 - docstring_lines(node)
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"
