"""The committed protobuf code is what the protos generate; a stale, missing or left-over file is noticed."""

import importlib.util
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("generate_protos", ROOT / "tools" / "generate_protos.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_code_is_fresh(tool):
    assert tool.main(["--check"]) == 0


def test_every_kind_of_staleness_is_noticed(tool, tmp_path):
    copy = tmp_path / "_generated"
    shutil.copytree(tool.COMMITTED, copy)
    assert tool.differences(tool.COMMITTED, copy) == []
    folder = copy / "prunefleet" / "v1"
    (folder / "fleet_pb2.py").write_text("stale = True\n")
    (folder / "messages_pb2.pyi").unlink()
    (folder / "old_pb2.py").write_text("")
    assert tool.differences(tool.COMMITTED, copy) == [
        "missing: prunefleet/v1/messages_pb2.pyi",
        "no longer generated: prunefleet/v1/old_pb2.py",
        "changed: prunefleet/v1/fleet_pb2.py",
    ]
