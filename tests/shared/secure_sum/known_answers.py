"""One recorded session of four devices, message by message, and the answers that a device must refuse.

Written again by ``python tests/shared/secure_sum/known_answers.py``: only when the protocol changes on purpose. Its
certificates stay, unless the file is removed first; their keys are in it, for tests, and worth nothing elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from sum_world import CONTEXT, NOW, SESSION, VECTORS, identity, key_of, root, seeded
from sum_world import recorded as recorded_before

from prunefleet_shared import sum_messages
from prunefleet_shared.certificates import create_authority, issue
from prunefleet_shared.errors import RemoteProtocolError
from prunefleet_shared.identity import key_from_pem
from prunefleet_shared.roles import Role
from prunefleet_shared.secure_sum.coordinator_end import CohortRule, SecureCoordinatorSum
from prunefleet_shared.secure_sum.device_end import SecureDeviceSum, SumTerms
from prunefleet_shared.secure_sum.ring import Ring
from prunefleet_shared.secure_sum.roster import Members, SumIdentity
from prunefleet_shared.sum_messages import FetchCertificates, SumDown, SumUp

BITS = [5, 5, 5, 16, 17, 40]


def plain(value: Any) -> Any:
    """A message as JSON: its type and fields, bytes in hex."""
    if is_dataclass(value):
        return {"type": type(value).__name__} | {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value.hex() if isinstance(value, bytes) else value


def message(value: Any) -> Any:
    """Undo :func:`plain`; of all text only ``session_id`` is not bytes."""
    match value:
        case {"type": name, **rest}:
            kind = getattr(sum_messages, name)
            return kind(**{key: rest[key] if key == "session_id" else message(rest[key]) for key in rest})
        case list():
            return tuple(message(each) for each in value)
        case str():
            return bytes.fromhex(value)
    return value


class Replayed:
    """The devices and the coordinator of a recorded session, as they were before it."""

    def __init__(self, recorded: dict[str, Any]) -> None:
        now, root = datetime.fromisoformat(recorded["utc_now"]), recorded["root_pem"].encode()
        self.ring, context, session_id = (
            Ring(recorded["bits"]),
            bytes.fromhex(recorded["context"]),
            recorded["session_id"],
        )
        self.names = [each["name"] for each in recorded["devices"]]
        size = len(self.names)
        self.coordinator = SecureCoordinatorSum(
            context, session_id, self.ring, CohortRule(size, 3), Members(root, lambda: now)
        )
        self.devices = {
            each["name"]: SecureDeviceSum(
                context, session_id, self.ring, np.array(each["vector"], dtype=np.int64),
                identity=SumIdentity((bytes.fromhex(each["certificate"]),), key_of(each["private_key"])),
                members=Members(root, lambda: now), terms=SumTerms(3, 6), random_bytes=seeded("known", each["name"]),
            )
            for each in recorded["devices"]
        }  # fmt: skip

    def play(self, silent_from: dict[str, str]) -> list[dict[str, Any]]:
        """All messages in order, each ``{"device", "up", "down"}``."""
        said = {name: each.start() for name, each in self.devices.items()}
        log: list[dict[str, Any]] = []
        while said:
            said = {name: up for name, up in said.items() if silent_from.get(name) != type(up).__name__}
            answers = self._answers(said)
            log += [{"device": name, "up": plain(said[name]), "down": plain(answers[name])} for name in said]
            heard = {name: self.devices[name].receive(answer) for name, answer in answers.items()}
            said = {name: up for name, up in heard.items() if up is not None}
        return log

    def _answers(self, said: dict[str, SumUp]) -> dict[str, SumDown]:
        before = self.coordinator.stage
        for name, up in said.items():
            self.coordinator.receive(name, up)
        if self.coordinator.stage == before and not any(isinstance(up, FetchCertificates) for up in said.values()):
            self.coordinator.end_stage()
        return {name: self.coordinator.receive(name, up) for name, up in said.items()}  # type: ignore[misc]


def answers_to(recorded: dict[str, Any], name: str) -> list[SumDown]:
    """What a device was answered, in order."""
    return [message(line["down"]) for line in recorded["messages"] if line["device"] == name]


def refusal(recorded: dict[str, Any], stage: int, answers: list[SumDown]) -> str:
    """Why the first device refuses ``answers`` in place of those from number ``stage`` (from 0) on."""
    name = recorded["devices"][0]["name"]
    device = Replayed(recorded).devices[name]
    device.start()
    for good in answers_to(recorded, name)[:stage]:
        device.receive(good)
    try:
        for bad in answers:
            device.receive(bad)
    except RemoteProtocolError as error:
        return error.rejection.reason.name
    return "NOT REFUSED"


def bad_answers(recorded: dict[str, Any]) -> list[tuple[str, str, int, list[Any]]]:
    """Name, reason, stage and answers: at least one for each reason that a device has to refuse."""
    good: list[Any] = answers_to(recorded, recorded["devices"][0]["name"])
    roster, certificates, shares, survivors, confirmations, _ = good
    own = bytes.fromhex(recorded["devices"][0]["certificate_digest"])
    entries, confirmed = roster.entries, confirmations.signatures
    altered = [e if e.certificate_digest == own else replace(e, share_key=e.share_key[::-1]) for e in entries]
    foreign = bytes.fromhex(recorded["foreign_certificate"])
    return [
        ("a later stage's answer", "OUT_OF_TURN", 0, [survivors]),
        ("a roster of two", "BAD_ROSTER", 0, [replace(roster, entries=entries[:2])]),
        ("entries out of order", "BAD_ROSTER", 0, [replace(roster, entries=entries[::-1])]),
        ("others' keys altered", "BAD_SIGNATURE", 0, [replace(roster, entries=tuple(altered)), certificates]),
        ("a certificate of another fleet", "STRANGER", 1, [replace(certificates, certificates=(foreign,) * 3)]),
        ("a certificate is missing", "STRANGER", 1, [replace(certificates, certificates=())]),
        ("shares cut short", "MALFORMED", 2, [replace(shares, shares=shares.shares[:-1])]),
        ("signatures in another order", "NO_AGREEMENT", 2, [replace(shares, signatures=shares.signatures[::-1])]),
        ("two survivors", "BAD_SURVIVORS", 3, [replace(survivors, survivors=b"\x03")]),
        ("a padding bit", "MALFORMED", 3, [replace(survivors, survivors=b"\x1f")]),
        ("signatures swapped", "NO_AGREEMENT", 4, [replace(confirmations, signatures=confirmed[64:] + confirmed[:64])]),
        ("the end of another session", "WRONG_SESSION", 5, [sum_messages.ContributionCounted("00" * 16)]),
    ]


def record() -> dict[str, Any]:
    """A fresh recording, with the certificates of the last."""
    known = recorded_before()
    vectors = [[i, 31, 7 * i, 60_000 + i, -i, 2**39 - i] for i in range(4)]
    devices = [
        {"name": f"device-{i:03d}", "certificate": identity(i).certificates[0].hex(),
         "certificate_digest": identity(i).certificate_digest.hex(),
         "private_key": f"{identity(i).key.private_numbers().private_value:064x}", "vector": vector}
        for i, vector in enumerate(vectors)
    ]  # fmt: skip
    recorded: dict[str, Any] = {
        "about": "One private sum of four devices, the last silent from Contribute on. Draw number i (from 1) of a "
        "device is SHAKE-256 of the text (\"('known', NAME)|i\"), 32 bytes. Keys are for tests.",
        "utc_now": NOW.isoformat(), "root_pem": root().cert_pem.decode(), "context": CONTEXT.hex(),
        "root_private_key": f"{key_from_pem(root().key_pem).private_numbers().private_value:064x}",
        "session_id": SESSION, "bits": BITS, "devices": devices, "silent_from": {"device-003": "Contribute"},
        "foreign_certificate": (known or {}).get("foreign_certificate") or _foreign().hex(),
    }  # fmt: skip
    replayed = Replayed(recorded)
    recorded["messages"] = replayed.play(recorded["silent_from"])
    recorded["sum"] = replayed.coordinator.close().tolist()
    recorded["refused"] = [
        {"name": name, "reject": reason, "stage": stage, "answers": [plain(each) for each in answers]}
        for name, reason, stage, answers in bad_answers(recorded)
    ]
    return recorded


def _foreign() -> bytes:
    return SumIdentity.of(issue(create_authority(NOW), Role.DEVICE, "device-001", NOW)).certificates[0]


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(record(), indent=1) + "\n", encoding="utf-8")
