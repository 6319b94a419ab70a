"""Log lines: one an event, for people or for machines, not to be forged by a client."""

from __future__ import annotations

import json
import logging

import pytest

from lj_services.daemon.log import JsonFormatter, TextFormatter

pytestmark = pytest.mark.unit


def record(message: str, **extra: object) -> logging.LogRecord:
    event = logging.LogRecord("lj.test", logging.INFO, __file__, 1, message, (), None)
    event.created, event.msecs = 1_000_000_000.25, 250.0
    vars(event).update(extra)
    return event


def test_text_shows_time_level_logger_message_and_figures() -> None:
    line = TextFormatter().format(record("client refused", peer="127.0.0.1", limit=3))
    assert line == "2001-09-09T01:46:40.250Z INFO lj.test: client refused peer=127.0.0.1 limit=3"


def test_json_is_one_object_with_the_same_keys() -> None:
    event = json.loads(JsonFormatter().format(record("client refused", limit=3)))
    assert event == {
        "time": "2001-09-09T01:46:40.250Z",
        "level": "info",
        "logger": "lj.test",
        "message": "client refused",
        "limit": 3,
    }


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_a_client_cannot_forge_a_line(formatter: logging.Formatter) -> None:
    line = formatter.format(record("bad key", key="x\n2001 INFO lj: all is well\x1b[2J"))
    assert "\n" not in line
    assert "\x1b" not in line
