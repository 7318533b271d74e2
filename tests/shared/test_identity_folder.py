"""``identity.json``: written whole and private, read back the same, and clear words about anything else."""

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from prunefleet_shared import document_file, identity_folder
from prunefleet_shared.certificates import create_authority, create_intermediate, issue
from prunefleet_shared.documents import public_bytes
from prunefleet_shared.errors import ConfigError, RemoteProtocolError
from prunefleet_shared.identity import Credentials, key_to_pem
from prunefleet_shared.identity_folder import (
    IDENTITY_FILE,
    default_state,
    identity_from,
    load_identity,
    make_state_folder,
    save_identity,
)
from prunefleet_shared.messages import Role

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ROOT = create_authority(NOW)
MEMBERS = [Role.DEVICE, Role.TRAINER, Role.OPERATOR, Role.COORDINATOR]


def an_identity(role=Role.DEVICE, name="device-01"):
    intermediate = create_intermediate(ROOT, NOW, validity_h=48)
    leaf = issue(intermediate, role, name, NOW, validity_h=24)
    return identity_from(
        Credentials(leaf.cert_pem + intermediate.cert_pem, leaf.key_pem, ROOT.cert_pem),
        operator_keys=(bytes(91), b"\1" * 91),
        coordinator_address="coordinator:8470",
        authority_address="ca:8472",
        device_class="pi-4" if role is Role.DEVICE else "",
    )


@pytest.mark.parametrize("role", MEMBERS)
def test_what_is_saved_is_loaded(tmp_path, role):
    identity = an_identity(role)
    save_identity(tmp_path / "deep" / "state", identity)
    assert load_identity(tmp_path / "deep" / "state", role) == identity


def test_role_name_and_dates_are_those_of_the_certificate():
    identity = an_identity(Role.TRAINER, "t-1")
    assert (identity.role, identity.name) == (Role.TRAINER, "t-1")
    assert identity.valid_until == NOW + timedelta(hours=24)
    assert identity.valid_from < NOW
    assert identity.public_key == public_bytes(identity.signing_key.public_key())
    assert key_to_pem(identity.signing_key) == identity.credentials.key_pem


def test_only_the_owner_can_read_it(tmp_path):
    folder = tmp_path / "state"
    save_identity(folder, an_identity())
    assert stat.S_IMODE((folder / IDENTITY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir()] == [IDENTITY_FILE]


def test_it_is_never_readable_by_others_while_it_is_written(tmp_path, monkeypatch):
    modes = []
    fsync = document_file.os.fsync
    monkeypatch.setattr(
        document_file.os,
        "fsync",
        lambda number: (modes.append(stat.S_IMODE(document_file.os.fstat(number).st_mode)), fsync(number)),
    )
    save_identity(tmp_path, an_identity())
    assert modes
    assert set(modes) == {0o600}


def test_a_full_disk_leaves_the_old_identity(tmp_path, monkeypatch):
    old = an_identity()
    save_identity(tmp_path, old)

    def full(_number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(document_file.os, "fsync", full)
    with pytest.raises(ConfigError, match="make room"):
        save_identity(tmp_path, an_identity())
    monkeypatch.undo()
    assert load_identity(tmp_path, Role.DEVICE) == old
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_FILE]


def test_the_key_is_never_printed():
    for printed in (repr(an_identity()), str(an_identity())):
        assert "PRIVATE" not in printed


@pytest.mark.parametrize(
    ("role", "command"),
    [
        (Role.DEVICE, "edge join TOKEN"),
        (Role.TRAINER, "trainer join TOKEN"),
        (Role.OPERATOR, "campaign join TOKEN"),
        (Role.COORDINATOR, "coordinator join TOKEN"),
    ],
)
def test_who_has_not_joined_is_told_how(tmp_path, role, command):
    with pytest.raises(ConfigError, match=command):
        load_identity(tmp_path, role)


def test_the_identity_of_another_role_is_not_used(tmp_path):
    save_identity(tmp_path, an_identity(Role.DEVICE))
    with pytest.raises(ConfigError, match=r"of a device, expected a trainer.*--state"):
        load_identity(tmp_path, Role.TRAINER)


def damaged(change):
    def apply(text):
        document = json.loads(text)
        change(document)
        return json.dumps(document)

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "null",
        lambda text: '"text"',
        damaged(lambda d: d.pop("key_pem")),
        damaged(lambda d: d.update(key_pem="garbage")),
        damaged(lambda d: d.update(key_pem=None)),
        damaged(lambda d: d.update(cert_pem="garbage")),
        damaged(lambda d: d.update(cert_pem=ROOT.cert_pem.decode())),
        damaged(lambda d: d.update(root_pem="garbage")),
        damaged(lambda d: d.update(operator_keys=["xyz"])),
        damaged(lambda d: d.update(operator_keys=None)),
        damaged(lambda d: d.update(key_pem=an_identity().credentials.key_pem.decode())),
    ],
    ids=[
        "empty",
        "half",
        "a list",
        "null",
        "a string",
        "no key",
        "a bad key",
        "null as key",
        "a bad certificate",
        "a certificate without a name",
        "a bad root",
        "bad operator keys",
        "no operator keys",
        "another certificate's key",
    ],
)
def test_a_damaged_identity_is_the_users_to_mend_and_no_key_is_repeated(tmp_path, damage):
    identity = an_identity()
    save_identity(tmp_path, identity)
    path = tmp_path / IDENTITY_FILE
    path.write_text(damage(path.read_text()))
    with pytest.raises(ConfigError, match="move it away and join again: prunefleet edge join") as caught:
        load_identity(tmp_path, Role.DEVICE)
    assert str(path) in str(caught.value)
    assert identity.credentials.key_pem.decode().splitlines()[1][:20] not in str(caught.value)


def test_a_certificate_that_names_nobody_of_ours_makes_no_identity():
    identity = an_identity()
    credentials = replace(identity.credentials, cert_pem=ROOT.cert_pem)
    with pytest.raises(RemoteProtocolError):
        identity_from(
            credentials, operator_keys=(), coordinator_address="c:1", authority_address="a:1", device_class=""
        )


def test_the_state_folder_is_named_or_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNEFLEET_STATE", str(tmp_path / "named"))
    assert default_state(Role.DEVICE) == tmp_path / "named"
    monkeypatch.delenv("PRUNEFLEET_STATE")
    monkeypatch.setattr(identity_folder.Path, "home", lambda: tmp_path)
    assert {default_state(role) for role in MEMBERS} == {
        tmp_path / ".local" / "state" / "prunefleet" / role.value for role in MEMBERS
    }


def test_a_state_folder_that_cannot_be_made_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="--state"):
        make_state_folder(tmp_path / "file" / "state")
