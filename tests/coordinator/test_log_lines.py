"""Log lines: one per event, to be split at spaces; nothing that is logged can forge a second line."""

import logging
import sys

from prunefleet_coordinator.log_lines import KeyValueFormatter, log_event


def formatted(message, *arguments, facts=None, exc_info=None):
    record = logging.LogRecord("a.logger", logging.WARNING, "file.py", 1, message, arguments, exc_info)
    record.created = 1_767_225_600.25
    if facts is not None:
        record.facts = facts
    return KeyValueFormatter().format(record)


def test_time_is_utc_and_values_are_quoted_when_they_need_it():
    line = formatted("x", facts={"kind": "joined", "device_id": "camera-3", "why": 'a "b"\nc', "is_paused": True})
    assert line == (
        'time=2026-01-01T00:00:00.250Z level=warning kind=joined device_id=camera-3 why="a \\"b\\"\\nc" is_paused=true'
    )


def test_words_become_one_value_and_pairs_stay_pairs():
    assert formatted("the disk is %s", "full").endswith('level=warning message="the disk is full"')
    assert formatted("event=joined role=%s", "device").endswith("level=warning event=joined role=device")


def test_a_second_line_cannot_be_forged():
    assert "\n" not in formatted("a\ntime=2026 level=error kind=forged")
    assert "\n" not in formatted("event=x name=%s", "a\nb")


def test_a_traceback_is_one_value():
    try:
        raise ValueError("oops")
    except ValueError:
        line = formatted("failed", exc_info=sys.exc_info())
    assert "\n" not in line
    assert "ValueError: oops" in line


def test_of_devices_awaited_only_the_number_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        log_event("c0", "invited", {"device_id": "d1", "awaited": ["d1", "d2"]})
    (record,) = caplog.records
    assert record.facts == {"kind": "invited", "campaign": "c0", "device_id": "d1", "num_awaited": 2}
