"""A message of Celery's as Redis has it: its shape, its names, and who holds it.

Whoever reaches Redis can write there, so nothing of it is trusted to have a shape.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from crisper_worker.text import shorten


class UnreadableError(Exception):
    """A message cannot be read, or cannot go where it belongs; the text says why."""


def text_of(raw: bytes) -> str:
    """Return a name that Redis has; `bytes_of` makes the same bytes of it, whatever they are."""
    return raw.decode("utf-8", "surrogateescape")


def bytes_of(name: str) -> bytes:
    """Return a name as Redis has it."""
    return name.encode("utf-8", "surrogateescape")


def misshapen(message: Any) -> str:
    """Return why something is no message of a task; empty if it may be one."""
    if not isinstance(message, dict):
        return f"a message is an object, and it is a {type(message).__name__}"
    for name in ("headers", "properties"):
        if not isinstance(message.get(name) or {}, dict):
            return f"its {name} are a {type(message[name]).__name__}"
    info = (message.get("properties") or {}).get("delivery_info") or {}
    if not isinstance(info, dict):
        return f"its delivery_info is a {type(info).__name__}"
    headers = message.get("headers") or {}
    for name in ("id", "task"):
        value = headers.get(name)
        if value is not None and not isinstance(value, (str, int)):
            return f"the {name} of its task is a {type(value).__name__}"
        try:
            str(value).encode()
        except ValueError:
            return f"the {name} of its task is no text"
    return ""


def described_error(error: BaseException) -> str:
    """Return an error in a few words, of which none can be more than a part of our sentence."""
    return f"{type(error).__name__}: {str(error)[:100]!a}"


@dataclass(frozen=True)
class Delivery:
    """A message that some worker holds, as Redis has it."""

    tag: str
    message: dict[str, Any]
    source: str  # the list it came from, with kombu's prefix
    holder: str

    @property
    def task_id(self) -> str:
        """The task's id; the tag where the message has none (another protocol)."""
        return str((self.message.get("headers") or {}).get("id") or self.tag)

    @property
    def task(self) -> str:
        """The task's name."""
        return str((self.message.get("headers") or {}).get("task") or "unknown")

    @property
    def label(self) -> str:
        """The task's name and id for a log: whoever sent it wrote both."""
        return f"{shorten(self.task)}[{shorten(self.task_id)}]"

    def again(self) -> str:
        """Return the message as it goes back, marked as kombu marks it."""
        message = json.loads(json.dumps(self.message))
        for owner, name in ((message, "headers"), (message, "properties")):
            owner[name] = owner.get(name) or {}
        properties = message["properties"]
        properties["delivery_info"] = properties.get("delivery_info") or {}
        message["headers"]["redelivered"] = properties["delivery_info"]["redelivered"] = True
        return json.dumps(message)
