"""Judges of single options of a service: each yields a sentence with the remedy (no I/O)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ..playbook.call import nearest
from .container_limits import LEAST_TMP
from .defaults import LIKE, LIMITS, unknown_keys
from .environment import RESERVED_ENV, size_problems
from .marks import marks
from .validators import (
    BOOLEAN,
    ENV_NAME,
    SECONDS,
    USER_ID,
    command_problem,
    env_text,
    is_address,
    quoted,
    size_bytes,
    whole,
)

LABEL = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9._/-]{0,198}[a-zA-Z0-9])?\Z")
# Ours and the engine's: containers are found by them.
OWN_LABELS = ("crisper.", "com.docker.")
HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\Z")
GATEWAY = "host-gateway"
SIGNAL = re.compile(r"SIG(?:TERM|INT|QUIT|HUP|USR1|USR2|WINCH|RTMIN\+[0-9]{1,2})\Z")
CAPABILITIES = frozenset((
    *("AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "CHOWN"),
    *("DAC_OVERRIDE", "FOWNER", "FSETID", "IPC_LOCK", "IPC_OWNER", "KILL", "LEASE"),
    *("LINUX_IMMUTABLE", "MKNOD", "NET_ADMIN", "NET_BIND_SERVICE", "NET_BROADCAST"),
    *("NET_RAW", "PERFMON", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"),
    *("SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RESOURCE", "SYS_TTY_CONFIG"),
    *("WAKE_ALARM",),
))  # fmt: skip
# Whoever has one of these has the server, or stops its clock.
HOST_CAPABILITIES = frozenset((
    *("ALL", "BPF", "CHECKPOINT_RESTORE", "DAC_READ_SEARCH", "MAC_ADMIN", "MAC_OVERRIDE"),
    *("SYSLOG", "SYS_ADMIN", "SYS_BOOT", "SYS_MODULE", "SYS_RAWIO", "SYS_TIME"),
))  # fmt: skip
ULIMITS = frozenset((
    *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile"),
    *("nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
))  # fmt: skip
UNLIMITED = -1
# Every deploy carries the files to the server.
MAX_FILE = 1024**2
# Compose takes one letter for a drive of Windows.
VOLUME = re.compile(r"[a-z][a-z0-9-]{1,39}\Z")
OWN_VOLUMES = frozenset({*LIMITS, "beat", "uploads", "nginx-temp"})
DEVICE = re.compile(
    r"(?P<host>/dev/[A-Za-z0-9._/-]{1,200})(?::/dev/[A-Za-z0-9._/-]{1,200}(?::[rwm]{1,3})?)?\Z"
)
# The memory and the disks of the server.
HOST_DEVICES = re.compile(
    r"/dev/(?:k?mem|port|kmsg|(?:x?v|[sh])d[a-z]|nvme|dm-|md[0-9]|mmcblk|loop|mapper\b|disk\b"
    r"|root\b|block\b)"
)


def normal_path(path: Any) -> str:
    """Return a path of plain characters without doubled slashes, dots and a slash at its end."""
    return "/" + posixpath.normpath(str(path)).strip("/")


def entries(value: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the mappings in a list with their indices; others are refused elsewhere."""
    items = value if isinstance(value, (list, tuple)) else ()
    return [(index, item) for index, item in enumerate(items) if isinstance(item, Mapping)]


def entrypoint(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with an entrypoint; an empty list means none."""
    if value != [] and (problem := command_problem(where, value)):
        yield problem


def command(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with a command."""
    if problem := command_problem(where, value):
        yield problem


def user(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with a user."""
    if not USER_ID.matches(value):
        yield f"{where} is {quoted(value)}: {USER_ID.remedy}"


def boolean(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with a value that is true or false."""
    if not BOOLEAN.matches(value):
        yield f"{where} is {quoted(value)}: {BOOLEAN.remedy}"


def size(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with a size in memory."""
    found = size_bytes(value)
    if found is None or found < LEAST_TMP:
        yield f"{where} is {quoted(value)}: give a size of 1m or more, such as 64m."


def seconds(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with a number of seconds."""
    if not SECONDS.matches(value):
        yield f"{where} is {quoted(value)}: {SECONDS.remedy}"


def stop_signal(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with a signal that ends a web server."""
    if not isinstance(value, str) or not SIGNAL.match(value):
        yield f"{where} is {quoted(value)}: give a signal that processes handle, such as SIGQUIT."


def tmpfs(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with temporary folders; their paths are judged with other mounts."""
    yield from mappings(where, value, "{path: /run/app, size: 16m}")
    for index, folder in entries(value):
        inner = f"{where}[{index}]"
        yield from unknown_keys(inner, folder, ("path", "size", "exec"))
        if folder.get("size") is not None:
            yield from size(f"{inner}.size", folder["size"])
        if folder.get("exec") is not None:
            yield from boolean(f"{inner}.exec", folder["exec"])


def volumes(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with volumes; folders of the server and paths are judged elsewhere."""
    yield from mappings(where, value, "{name: models, path: /srv/models}")
    for index, volume in entries(value):
        inner = f"{where}[{index}]"
        yield from unknown_keys(inner, volume, ("name", "host", "path", "read_only"))
        if (volume.get("name") is None) == (volume.get("host") is None):
            yield (
                f"{inner} needs either name, of a volume of the stack, or host, a path of the"
                " server."
            )
        elif "name" in volume:
            yield from _volume_name(f"{inner}.name", volume["name"])
        if volume.get("read_only") is not None:
            yield from boolean(f"{inner}.read_only", volume["read_only"])


def _volume_name(where: str, name: Any) -> Iterator[str]:
    if not isinstance(name, str) or not VOLUME.match(name):
        yield (
            f"{where} is {quoted(name)}: give 2 to 40 lower-case letters, digits and"
            " '-', such as models."
        )
    elif name in OWN_VOLUMES:
        yield f"{where} is {name!r}, a volume of the stack's own: choose another name."


def files(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with files; no sentence has a part of a content."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(e, Mapping) for e in value):
        yield f"{where} is no list of mappings: give [{{path: /run/key.pem, content: …}}]."
        return
    for index, file in entries(value):
        inner, content, source = f"{where}[{index}]", file.get("content"), file.get("source")
        yield from unknown_keys(inner, file, ("path", "content", "source"))
        if (content is None) == (source is None):
            yield f"{inner} needs either content, or source, a path on the controller."
        elif content is not None and not isinstance(content, str):
            yield f"{inner}.content is no text: quote it, or render it (to_nice_yaml, to_json)."
        elif content is not None and len(content.encode(errors="replace")) > MAX_FILE:
            yield (
                f"{inner}.content has more than {MAX_FILE} bytes: put the file into the image, or"
                " into a volume."
            )
        elif source is not None and (not isinstance(source, str) or not source):
            yield f"{inner}.source is {quoted(source)}: give a path on the controller."


def mappings(where: str, value: Any, example: str) -> Iterator[str]:
    """Yield what is no list of mappings."""
    if not isinstance(value, (list, tuple)):
        yield f"{where} is {quoted(value)}: give a list of mappings, such as [{example}]."
        return
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            yield f"{where}[{index}] is {quoted(item)}: give a mapping such as {example}."


def texts(where: str, value: Any, example: str) -> Iterator[tuple[str, str]]:
    """Yield each text of a list with its place, and a sentence without a text for what is none."""
    if not isinstance(value, (list, tuple)):
        yield f"{where} is {quoted(value)}: give a list such as [{example}].", ""
        return
    for index, item in enumerate(value):
        if isinstance(item, str) and item:
            yield f"{where}[{index}]", item
        else:
            yield f"{where}[{index}] is {quoted(item)}: give a text such as {example}.", ""


def capability(name: Any) -> str:
    """Return a capability as the engine names it: NET_RAW of ``cap_net_raw``."""
    return str(name).upper().removeprefix("CAP_")


def capabilities(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with capabilities, and those that give the server away."""
    for place, text in texts(where, value, "NET_RAW"):
        name = capability(text)
        if not text:
            yield place
        elif name in HOST_CAPABILITIES:
            yield f"{place} is {quoted(text)}: with it a container governs the server: remove it."
        elif name not in CAPABILITIES:
            yield f"{place} is {quoted(text)}: {_guess(name, CAPABILITIES)} (capabilities(7))."


def _guess(name: str, known: Collection[str]) -> str:
    meant = nearest(name, known, LIKE)
    return f"did you mean {meant}?" if meant else f"choose {', '.join(sorted(known))}"


def devices(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with devices, and those that give the server away."""
    for place, text in texts(where, value, "/dev/dri/renderD128"):
        match = DEVICE.match(text)
        if not text:
            yield place
        elif not match or ".." in text:
            yield (
                f"{place} is {quoted(text)}: give a device such as /dev/dri/renderD128, or"
                " /dev/ttyUSB0:/dev/modem:rw."
            )
        elif HOST_DEVICES.match(normal_path(match["host"])):
            yield f"{place} is {quoted(text)}, the memory or a disk of the server: remove it."


def ulimits(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with limits of processes."""
    if not isinstance(value, Mapping):
        yield f"{where} is {quoted(value)}: give a mapping such as {{core: 0}}."
        return
    yield from unknown_keys(where, value, ULIMITS)
    for name, limit in value.items():
        both = {"soft", "hard"}
        pair = limit if isinstance(limit, Mapping) and set(limit) == both else {name: limit}
        numbers = [_limit(each) for each in pair.values()]
        if name in ULIMITS and None in numbers:
            yield (
                f"{where}.{name} is {quoted(limit)}: give a whole number, -1 for no limit, or"
                " {soft: 1024, hard: 4096}."
            )
        elif name in ULIMITS and len(pair) == len(both) and _exceeds(pair["soft"], pair["hard"]):
            yield f"{where}.{name}.soft is more than its hard limit: exchange them."


def _limit(value: Any) -> int | None:
    return UNLIMITED if value == UNLIMITED and not isinstance(value, bool) else whole(value)


def _exceeds(soft: Any, hard: Any) -> bool:
    low, high = _limit(soft), _limit(hard)
    if low is None or high is None or high == UNLIMITED:
        return False
    return low == UNLIMITED or low > high


def labels(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with labels of a container."""
    if not isinstance(value, Mapping):
        yield f"{where} is {quoted(value)}: give a mapping of names to texts."
        return
    for name, text in value.items():
        if not isinstance(name, str) or not LABEL.match(name):
            yield f"{where}: {quoted(name)} is no name of a label, such as com.example.team."
        elif name.startswith(OWN_LABELS):
            yield f"{where}.{name} is one of the deploy's or the engine's: choose another name."
        elif isinstance(text, (Mapping, list, tuple)):
            yield f"{where}.{name} is {quoted(text)}: give a text."
        else:
            yield from _text_problems(name, f"{where}.{name}", text)


def _text_problems(name: str, where: str, value: Any) -> Iterator[str]:
    try:
        text = env_text(value)
    except ValueError as error:
        yield f"{where} {error}"
        return
    yield from size_problems(where, len(f"{name}={text}".encode(errors="replace")))


def extra_hosts(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with names of hosts that a container knows."""
    if not isinstance(value, Mapping):
        yield f"{where} is {quoted(value)}: give a mapping such as {{ldap.example.com: 192.0.2.7}}."
        return
    for name, address in value.items():
        if not isinstance(name, str) or not HOST_NAME.match(name):
            yield f"{where}: {quoted(name)} is no host name."
        elif name in LIMITS or name == "localhost":
            yield f"{where}.{name} would hide the stack's own {name}: choose another name."
        elif address != GATEWAY and not is_address(address):
            yield f"{where}.{name} is {quoted(address)}: give an IP address, or {GATEWAY}."


def environment(where: str, value: Any) -> Iterator[str]:
    """Yield what is wrong with variables of one service."""
    if not isinstance(value, Mapping):
        yield f"{where} is {quoted(value)}: give a mapping of names to values."
        return
    for name, text in value.items():
        if not isinstance(name, str) or not ENV_NAME.match(name):
            yield f"{where}: {quoted(name)} is not an environment variable name."
            continue
        if name in RESERVED_ENV:
            yield f"{where}.{name} is set, but the deploy writes it itself: remove it."
        if any(marks(text)):
            yield (
                f"{where}.{name} names a service of the stack: move it to"
                " stack_app.environment_templates."
            )
        yield from _text_problems(name, f"{where}.{name}", text)
