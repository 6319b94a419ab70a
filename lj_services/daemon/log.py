"""One line an event on stderr: text for people, JSON for machines.

Code logs with the standard library, figures as ``extra=``::

    log.info("client refused", extra={"peer": peer, "limit": limit})

which becomes ``... client refused peer=127.0.0.1 limit=100`` or a JSON object
with the same keys.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
}


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _one_line(text: str) -> str:
    """Control characters escaped, so that no client can forge a log line."""
    return (
        text
        if text.isprintable()
        else "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
        )
    )


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message key=value ...``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        words = [
            _timestamp(record),
            record.levelname,
            f"{record.name}:",
            _one_line(record.getMessage()),
            *(f"{key}={_one_line(str(value))}" for key, value in _extras(record).items()),
        ]
        line = " ".join(words)
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the figures."""

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str, ensure_ascii=False)


def configure_logging(form: Literal["text", "json"] = "text", level: str = "info") -> None:
    """Send all logging of this process to stderr.

    Args:
        form: ``text`` or ``json``.
        level: the least important kind of event that is shown.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
