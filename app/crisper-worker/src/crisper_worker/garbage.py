"""Garbage in Redis that others have written: tell it from Celery's own, and log it once a minute.

Whoever reaches Redis can write into every queue, and Celery reads what it finds there: an exception
ends the worker, and the next one that reads the same. Nothing here knows a connection.
"""

from __future__ import annotations

import logging
import lzma
import threading
import time
import zlib
from typing import Any

import kombu.exceptions
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

from crisper_worker.messages import UnreadableError, described_error, misshapen
from crisper_worker.text import WRITER, shorten
from crisper_worker.weight import check_body, check_weight

log = logging.getLogger(__name__)

# What data of a wrong shape raises. The loss of a connection is none of these: redis-py has errors
# of its own, and an OSError is left to kombu.
DATA_ERRORS = (
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    kombu.exceptions.DecodeError,
    kombu.exceptions.ContentDisallowed,
)
COMPRESSION_ERRORS = (zlib.error, lzma.LZMAError, OSError, EOFError)
INTERVAL = 60.0  # seconds between two lines about the same kind of garbage
LARGEST_CLOCK = 2**53  # of Celery's logical clock; it counts events


class Decoder:
    """The part of a channel that a message needs to decode its body."""

    no_ack_consumers = None
    decode_body = virtual.Channel.decode_body
    codecs = virtual.Channel.codecs


class GarbageLog:
    """A log that has one line a minute, however much comes in.

    Args:
        kind: what happened, behind a number.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._lock = threading.Lock()
        self._number = 0
        self._next = 0.0

    def add(self, why: str, error: Exception | None = None) -> None:
        """Count one more, and write a line if the last one was a minute ago; with the traceback."""
        with self._lock:
            self._number += 1
            now = time.monotonic()
            if now < self._next:
                return
            number, self._number, self._next = self._number, 0, now + INTERVAL
        text = "%d %s. The last one: %s. %s"
        log.error(text, number, self._kind, shorten(why), WRITER, exc_info=error)


dropped = GarbageLog("entries in Redis cannot be read and were dropped")
set_aside = GarbageLog(
    "messages cannot be read or run and were set aside (playbooks/status.yml lists them)"
)
declined = GarbageLog("times a worker could not take a message")
blocked = GarbageLog("times no task could be taken: a key in Redis has another type")


def read_message(raw: bytes) -> dict[str, Any]:
    """Return a message of kombu's whose parts have the types that kombu and Celery rely on.

    Raises:
        UnreadableError: it is none.
    """
    try:
        check_weight(raw)
        message = loads(bytes_to_str(raw))
        problem = misshapen(message) or _undeliverable(message)
    except (*DATA_ERRORS, *COMPRESSION_ERRORS) as error:
        raise UnreadableError(described_error(error)) from error
    if problem:
        raise UnreadableError(problem)
    return dict(message)


def _undeliverable(message: dict[str, Any]) -> str:
    """Return why kombu cannot deliver a message; empty if it can.

    Raises:
        Exception: one of DATA_ERRORS, and it cannot.
    """
    properties = message["properties"]
    info = properties["delivery_info"]
    if not isinstance(properties["delivery_tag"], str):
        return "its delivery_tag is no text"
    properties["delivery_tag"].encode()
    if not all(isinstance(info[name], (str, type(None))) for name in ("exchange", "routing_key")):
        return "its delivery_info names no queue"
    if message.get("body"):
        decoder: Any = Decoder()
        body = decoder.decode_body(message["body"], properties.get("body_encoding"))
        check_body(body, (message.get("headers") or {}).get("compression"))
    return ""


def check_control(message: Any, accept: Any) -> None:
    """Raise one of DATA_ERRORS if Celery's remote control cannot take a message.

    An answer that is no mapping ends Mingle, and with it the worker; a request that is none resets
    the mailbox.

    Args:
        message: kombu's; it is decoded.
        accept: content types that its consumer accepts.
    """
    if accept is not None:
        message.accept = accept
    body = message.decode()
    if not isinstance(body, dict) or not all(isinstance(name, str) for name in body):
        raise TypeError(f"a message of the remote control is a {type(body).__name__}")
    _check_clock(message.headers.get("clock"))
    if "method" in body:
        _check_request(body)
        return
    for answer in body.values():
        if isinstance(answer, dict):
            _check_clock(answer.get("clock"))


def _check_clock(clock: Any) -> None:
    if clock and not (isinstance(clock, int) and clock < LARGEST_CLOCK):
        raise TypeError("its clock is no number of events")


def _check_request(body: dict[str, Any]) -> None:
    reply_to = body.get("reply_to") or {}
    fine = (
        isinstance(body["method"], str)
        and isinstance(body.get("arguments") or {}, dict)
        and isinstance(body.get("destination") or [], list)
        and isinstance(reply_to, dict)
        and all(isinstance(reply_to.get(n), str) for n in ("exchange", "routing_key") if reply_to)
    )
    if not fine:
        raise TypeError("a request of the remote control has parts of other types")
