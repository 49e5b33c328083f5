"""The server's log: a line a request on stderr, for people or as JSON. Questions and answers are
not in it."""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

from rstar_math.foreign import plain

LOG = logging.getLogger("rstar_math.serve")
_TRACE = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)


def set_up(*, as_json: bool) -> None:
    """Send the server's and uvicorn's log to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if as_json else _Plain())
    for name, level in (("rstar_math.serve", logging.INFO), ("uvicorn.error", logging.WARNING)):
        log = logging.getLogger(name)
        log.handlers[:] = [handler]
        log.setLevel(level)
        log.propagate = False


def trace_of(traceparent: str) -> dict[str, str]:
    """The ids of a W3C `traceparent` header under OpenTelemetry's names; {} where it has none
    that count."""
    match = _TRACE.fullmatch(traceparent)
    names = ("trace_id", "span_id", "trace_flags")
    return dict(zip(names, match.groups(), strict=True)) if match else {}


class _Json(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "severity": record.levelname,
            "body": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


class _Plain(logging.Formatter):
    """Time, words and facts."""

    def format(self, record: logging.LogRecord) -> str:
        facts = getattr(record, "facts", {})
        shown = " ".join(f"{key}={plain(str(value))}" for key, value in facts.items())
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{time} {plain(record.getMessage())} {shown}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
