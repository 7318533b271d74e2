"""``tests/vectors/secure_sum.json``: the recorded session comes out again byte for byte, its bad answers fail."""

import json

import pytest
from known_answers import Replayed, message, plain, refusal
from sum_world import VECTORS

from prunefleet_shared.errors import RejectReason

RECORDED = json.loads(VECTORS.read_text(encoding="utf-8"))


def test_the_recorded_session_comes_out_again():
    replayed = Replayed(RECORDED)
    assert replayed.play(RECORDED["silent_from"]) == RECORDED["messages"]
    assert replayed.coordinator.close().tolist() == RECORDED["sum"]


def test_the_sum_is_the_survivors():
    vectors = [each["vector"] for each in RECORDED["devices"] if each["name"] not in RECORDED["silent_from"]]
    true_sum = [sum(column) for column in zip(*vectors, strict=True)]
    modulo = [value % 2**bits for value, bits in zip(true_sum, RECORDED["bits"], strict=True)]
    assert RECORDED["sum"] == modulo


def test_every_message_is_read_as_it_was_written():
    for line in RECORDED["messages"]:
        for way in ("up", "down"):
            assert plain(message(line[way])) == line[way]


@pytest.mark.parametrize("bad", RECORDED["refused"], ids=lambda bad: bad["name"])
def test_recorded_bad_answers_are_refused(bad):
    assert refusal(RECORDED, bad["stage"], [message(each) for each in bad["answers"]]) == bad["reject"]


def test_there_is_a_bad_answer_for_every_reason_of_a_device():
    reasons = "OUT_OF_TURN BAD_ROSTER STRANGER BAD_SIGNATURE MALFORMED NO_AGREEMENT BAD_SURVIVORS WRONG_SESSION"
    assert {bad["reject"] for bad in RECORDED["refused"]} == set(reasons.split())
    assert all(bad["reject"] in RejectReason.__members__ for bad in RECORDED["refused"])
