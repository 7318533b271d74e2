"""What a device tells the authority is in its owner's audit too, before it leaves, and without the secret."""

from datetime import UTC, datetime

import pytest
from authority_world import make_state, running

from prunefleet_edge.audit import AuditLog, read_audit
from prunefleet_edge.egress import enrolment_record
from prunefleet_shared.enrolment import join, renew
from prunefleet_shared.errors import ConfigError
from prunefleet_shared.roles import Role


def utc_now():
    return datetime.now(UTC)


def test_joining_and_renewing_are_written_down_without_the_secret(tmp_path):
    state, folder = tmp_path / "ca", tmp_path / "device"
    make_state(state)
    folder.mkdir()
    log = AuditLog(folder)

    def write_down(message):
        log.append(enrolment_record(message, utc_now()))

    async def scenario(world):
        token = world.token()
        identity = await join(token, Role.DEVICE, folder, now=utc_now, before_send=write_down)
        await renew(identity, folder, now=utc_now, before_send=write_down)
        said = b"".join(path.read_bytes() for path in folder.glob("audit*"))
        assert token.text().encode() not in said
        assert token.secret.hex().encode() not in said

    running(state, scenario)
    log.close()
    entries = list(read_audit(folder))
    assert [entry.kind for entry in entries] == ["GetAuthority", "Join", "Renew"]
    assert all(entry.payload_bytes > 100 for entry in entries[1:])


def test_what_cannot_be_written_down_is_not_sent(tmp_path):
    make_state(tmp_path / "ca")

    def disk_is_full(_message):
        raise ConfigError("no room")

    async def scenario(world):
        token = world.token()
        with pytest.raises(ConfigError, match="no room"):
            await join(token, Role.DEVICE, tmp_path / "device", now=utc_now, before_send=disk_is_full)
        await join(token, Role.DEVICE, tmp_path / "device", now=utc_now)  # the token was never shown

    running(tmp_path / "ca", scenario)
