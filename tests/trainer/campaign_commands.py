"""What the tests of the campaign commands share."""

from __future__ import annotations

from pathlib import Path

import torch
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import ec
from operator_world import World, invoke

from prunefleet_edge.models import parse_spec
from prunefleet_edge.work import save_weights
from prunefleet_shared.authority_messages import ListMembers, MemberList
from prunefleet_shared.campaign import Campaign
from prunefleet_shared.document_file import read_signed
from prunefleet_shared.documents import open_document
from prunefleet_shared.roles import Role
from prunefleet_trainer.campaign_cli import app
from prunefleet_trainer.public import fresh

torch.set_num_threads(1)
SPEC = "resnet8/1x8x8/4"
WEIGHTS = save_weights(fresh(parse_spec(SPEC), 1))
CLASSES = ("--class", "phone=0.5,0.25", "--class", "camera=0.4", "--class", "meter")
OTHER_KEY = ec.derive_private_key(23, ec.SECP256R1())


def members(world: World, *more: object) -> None:
    known = [world.member(Role.COORDINATOR), world.member(Role.TRAINER), *more]

    def page(message: object) -> MemberList:
        assert isinstance(message, ListMembers)
        chosen = [m for m in known if m.role is message.role and m.name > message.after_name]
        return MemberList(tuple(sorted(chosen, key=lambda member: member.name)))

    world.authority.answers[ListMembers] = page


def create(world: World, out: Path, *options: object) -> Result:
    fixed = ("create", out, "--class", "camera", "--model", SPEC, "--state", world.operator_state)
    return invoke(app, *fixed, *options)


def made(world: World, out: Path, base: Path, *options: object) -> Campaign:
    members(world)
    result = create(world, out, "--base", base, *options)
    assert result.exit_code == 0, result.output
    return open_document(read_signed(out / "campaign.json"), "campaign", Campaign, world.operator.public_key)
