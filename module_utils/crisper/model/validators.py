"""The forms that single values of an inventory must have, and text that can be carried at all.

Pure functions. A value that fits its form can stand in every file and command of a release
without a meaning that its writer did not intend.
"""

from __future__ import annotations

import datetime
import ipaddress
import json
import math
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..playbook.call import nearest

WHOLE = re.compile(r"(?:0|[1-9][0-9]*)\Z")
DECIMAL = re.compile(r"[0-9]+(?:\.[0-9]+)?\Z")
SIZE = re.compile(
    r"(?P<number>[0-9]+(?:\.[0-9]+)?)(?:(?P<unit>[kmg])b?|b)\Z", re.ASCII | re.IGNORECASE
)
UNITS = {"k": 1024, "m": 1024**2, "g": 1024**3}
BODY_SIZE = re.compile(r"(?P<number>[0-9]+)(?P<unit>[kmg]?)\Z", re.ASCII | re.IGNORECASE)
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]{1,200}\Z")
# What a URL's path may hold (RFC 3986), without what nginx, curl or a shell would read otherwise.
URL_PATH = re.compile(r"/[A-Za-z0-9._~!&()*+,;=:@%/?-]{0,1000}\Z")
LOCATION = re.compile(r"/[A-Za-z0-9._~!&()*+,=:@/-]{0,1000}\Z")
DOTTED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.:][A-Za-z_][A-Za-z0-9_]*)*\Z")
USER = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?)?\Z")
SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")
# As a reference begins with it: a host name or address, and a port.
REGISTRY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(?::[0-9]{1,5})?\Z")
REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,500}\Z")
TASK = re.compile(r"[^\x00-\x20\x7f]{0,250}\Z")

TLS_SOURCES = ("none", "own", "self_signed", "acme")
# Bytes of one argument or one NAME=value, with the NUL behind it: the kernel's MAX_ARG_STRLEN.
MAX_WORD = 128 * 1024
# The kernel gives arguments and environment together a quarter of the stack: 2 MiB as a rule.
MAX_ENVIRONMENT = 1024**2
# Likeness (0 to 1) from which a value is taken for a mistyped choice.
LIKE = 0.5
MAX_SECONDS = 2**31 - 1
SURROGATE = re.compile("[\ud800-\udfff]")


def whole(value: Any) -> int | None:
    """Return the whole number of a number or of plain digits; None if it is neither."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    return int(value) if WHOLE.match(str(value)) and len(str(value)) < 20 else None


def number(value: Any) -> float | None:
    """Return a finite number that is not negative; None if the value is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = str(value)
    return float(text) if DECIMAL.match(text) and len(text) < 20 else None


def size_bytes(value: Any) -> int | None:
    """Return the bytes of a Docker memory size such as ``512m`` or ``1g``; None if it is none."""
    match = SIZE.match(str(value)) if isinstance(value, str) and len(value) < 20 else None
    if match is None:
        return None
    return int(float(match["number"]) * UNITS.get((match["unit"] or "").lower(), 1))


def env_text(value: Any) -> str:
    """Return a value as the application sees it: booleans as in YAML, lists and mappings as JSON.

    Raises:
        ValueError: there is no text that says just that; the message is the remedy.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("is not a finite number: quote it, if it is a text.")
    if isinstance(value, (str, int, float)):
        return str(value)
    if isinstance(value, (Mapping, list, tuple)):
        try:
            return json.dumps(value, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):
            raise ValueError("holds what JSON has no form for: quote dates and the like.") from None
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value.isoformat()
    raise ValueError(f"is a {type(value).__name__.strip('_')} to YAML: quote it.")


def as_mapping(value: Any) -> Mapping[str, Any]:
    """Return the value if it is a mapping, else an empty one: the type is checked elsewhere."""
    return value if isinstance(value, Mapping) else {}


def quoted(value: Any) -> str:
    """Return a value as messages have it: quoted, and cut if it is long."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"


def printable(text: str) -> str:
    """Return a message that any terminal and any log takes."""
    return "".join(one if one.isprintable() else f"\\u{ord(one):04x}" for one in text)


def carried(text: str) -> str:
    """Return why no file, process or URL can carry a text; empty if all can."""
    if "\0" in text:
        return "holds a NUL character: no process can receive it; remove it."
    if SURROGATE.search(text):
        return "holds half a character (U+D800 to U+DFFF): write the whole one."
    return ""


def texts(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield every text in a value with where it stands; keys stand where their value does."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            inner = f"{where}.{key}" if where else str(key)
            if isinstance(key, str):
                yield inner, key
            yield from texts(item, inner)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from texts(item, f"{where}[{index}]")


def command_problem(where: str, command: Any) -> str:
    """Return what is wrong with a command, which is a list of words; empty if nothing is."""
    if isinstance(command, str) or not isinstance(command, Sequence) or not command:
        return f"{where} is {quoted(command)}: give a list, one argument each (no shell is used)."
    for index, word in enumerate(command):
        if isinstance(word, bool) or not isinstance(word, (str, int, float)):
            return f"{where}[{index}] is {quoted(word)}: give a text or a number; quote it."
        if len(str(word).encode(errors="replace")) >= MAX_WORD:
            return (
                f"{where}[{index}] is longer than the {MAX_WORD - 1} bytes that the kernel gives"
                " one argument: put it into a file of the image."
            )
    return ""


@dataclass(frozen=True)
class Form:
    """The form of a value: the check it must pass, and what to write instead."""

    matches: Callable[[Any], bool]
    remedy: str


def _text(pattern: re.Pattern[str], remedy: str) -> Form:
    return Form(lambda value: isinstance(value, str) and bool(pattern.match(value)), remedy)


def _between(low: int, high: int, remedy: str) -> Form:
    def matches(value: Any) -> bool:
        count = whole(value)
        return count is not None and low <= count <= high

    return Form(matches, remedy)


def is_address(value: Any) -> bool:
    """Return whether a value is an IP address, without a zone."""
    try:
        return isinstance(value, str) and "%" not in value and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _is_folder(value: Any) -> bool:
    return (
        isinstance(value, str)
        and bool(PLAIN_PATH.match(value))
        and ".." not in value.split("/")
        and posixpath.normpath(value).strip("/") != ""
    )


def _is_pattern(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(re.compile(value))
    except (re.error, OverflowError, RecursionError):
        return False


def _is_body_size(value: Any) -> bool:
    match = BODY_SIZE.match(str(value)) if isinstance(value, (str, int)) else None
    return match is not None and int(match["number"][:20]) * 1024**3 < 2**63


BOOLEAN = Form(lambda value: isinstance(value, bool), "give true or false.")


def boolean_remedy(name: str, value: Any) -> str:
    """Return what to write for a boolean; `-e name=false` on the command line is a text."""
    meant = "false" if str(value).strip().lower() in ("false", "no", "off", "n", "0") else "true"
    return f"give true or false (on the command line as JSON: -e '{{\"{name}\": {meant}}}')."


def choice_remedy(value: Any, choices: Sequence[str]) -> str:
    """Return the remedy for a value that is none of the choices."""
    meant = nearest(value, choices, LIKE) if isinstance(value, str) else ""
    listed = ", ".join(repr(one) if one == "" else one for one in choices)
    return (f"did you mean {meant}? " if meant else "") + f"choose {listed}."


PORT = _between(1, 65535, "give a port from 1 to 65535.")
COUNT = _between(1, 512, "give a whole number from 1 to 512.")
SECONDS = _between(1, MAX_SECONDS, "give a whole number of seconds, 1 or more.")
ADDRESS = Form(
    lambda value: value == "" or is_address(value),
    "give an IP address such as 0.0.0.0 or 127.0.0.1, or '' for all.",
)
FOLDER = Form(_is_folder, "give an absolute path of plain characters: /opt/app.")
PATTERN = Form(_is_pattern, "give a regular expression that Python's re takes.")
BODY = Form(_is_body_size, "give nginx a size such as 10m.")
HEALTH_PATH = _text(
    URL_PATH,
    "give a path as it stands in a URL, such as /health; other characters percent-encoded.",
)
IMAGE = Form(
    lambda value: value == "" or (isinstance(value, str) and bool(REFERENCE.match(value))),
    "give a reference such as registry.example.com/app:1.4.2.",
)
USER_ID = Form(
    lambda value: bool(whole(value)) or (isinstance(value, str) and bool(USER.match(value))),
    "give a user such as app, 1000 or '1000:1000'.",
)
# By dotted name; a value that is not there has a default or is missed elsewhere.
FORMS: dict[str, Form] = {
    "stack_root": FOLDER,
    "stack_http_port": PORT,
    "stack_https_port": PORT,
    "stack_tls": Form(
        lambda value: value in TLS_SOURCES, f"choose {', '.join(TLS_SOURCES)} (docs/SECURITY.md)."
    ),
    "stack_hsts_seconds": _between(0, MAX_SECONDS, "give seconds, or 0."),
    "stack_bind_address": ADDRESS,
    "stack_max_body_size": BODY,
    "stack_isolation": BOOLEAN,
    "stack_proxy_protocol": BOOLEAN,
    "stack_secrets_generate": BOOLEAN,
    "mariadb_enabled": BOOLEAN,
    "celery_allow_unknown_tasks": BOOLEAN,
    "rollout_ledger": BOOLEAN,
    "release_keep": _between(1, 1000, "give a whole number from 1 to 1000."),
    "image_source": Form(
        lambda value: value in ("auto", "registry", "local"), "choose auto, registry or local."
    ),
    "image_pinning": Form(lambda value: value in ("follow", "strict"), "choose follow or strict."),
    "stack_app.image": IMAGE,
    "stack_app.frontend.image": IMAGE,
    "stack_app.user": USER_ID,
    "stack_app.database_scheme": _text(SCHEME, "give a scheme such as postgresql+psycopg."),
    "stack_app.web.port": PORT,
    "stack_app.web.health_path": HEALTH_PATH,
    "stack_app.web.replicas": COUNT,
    "stack_app.frontend.port": PORT,
    "stack_app.frontend.health_path": HEALTH_PATH,
    "stack_app.celery.app": _text(DOTTED, "give a module such as project.celery, or module:app."),
    "stack_app.celery.guard": BOOLEAN,
    "stack_app.celery.health": Form(
        lambda value: value in ("heartbeat", "ping"), "choose heartbeat or ping."
    ),
    "stack_app.celery.heartbeat_file": FOLDER,
    "stack_app.uploads": Form(
        lambda value: value == "" or _is_folder(value),
        "give an absolute path of plain characters, such as /app/media; leave it out for none.",
    ),
    "stack_app.celery.canary_task": _text(TASK, "give the task's name."),
    "stack_app.migrate.timeout": SECONDS,
    "stack_app.migrate.changed_pattern": PATTERN,
    "stack_app.migrate.irreversible_pattern": PATTERN,
}
