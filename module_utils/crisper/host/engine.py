"""Decisions about a host's Docker Engine, as functions of plain data (no I/O).

Runs on the target's Python (3.8 or newer), hence the old spelling of some types.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

# What dockerd takes over on SIGHUP (docs.docker.com, "dockerd: configuration reload
# behavior"); a change of any other key needs a restart. Of `features`, the image store is chosen at
# the start alone.
IMAGE_STORE = "containerd-snapshotter"
RELOADABLE = frozenset(
    {
        "allow-nondistributable-artifacts",
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    }
)


def version(text: str) -> tuple[int, ...]:
    """Return (26, 1, 5) of '26.1.5+dfsg1', (2, 26, 1) of 'v2.26.1-4'; () where there is none."""
    match = re.search(r"\d+(?:\.\d+)*", text or "")
    return tuple(int(part) for part in match.group().split(".")) if match else ()


def at_least(found: str, wanted: str) -> bool:
    """Return whether version ``found`` is known and not older than ``wanted``."""
    return bool(version(found)) and _padded(found) >= _padded(wanted)


def _padded(text: str) -> tuple[int, ...]:
    return (version(text) + (0,) * 4)[:4]


# --- which engine ------------------------------------------------------------------------


@dataclass(frozen=True)
class EngineFacts:
    """An engine as found on a host."""

    version: str = ""  # '' = no engine
    compose: str = ""  # '' = no Compose v2 plugin
    kind: str = ""  # 'docker' | 'distro' (by its package) | 'other' | '' (none)
    containers: int = 0  # running now
    swarm: bool = False


@dataclass(frozen=True)
class Host:
    """The facts of a host that decide which engine it can have."""

    os_id: str
    codename: str
    has_mirror: bool  # the mirror its apt uses for its own suite is known


@dataclass(frozen=True)
class Wanted:
    """The engine that the operator's variables ask for."""

    source: str  # auto | docker | distro | present
    engine: str  # oldest acceptable
    compose: str
    distro_releases: Sequence[str]  # codenames whose own packages we know
    next_suites: Mapping[str, str] = field(default_factory=dict)  # {bookworm: trixie}
    live_restore: bool = True
    replace: bool = False


@dataclass(frozen=True)
class Decision:
    """The source of the engine, and what forbids it."""

    source: str
    install: bool
    problems: list[str]


def shortcomings(engine: EngineFacts, wanted: Wanted) -> list[str]:
    """Return why this engine will not do; empty if it will."""
    if not engine.version:
        return ["no Docker Engine was found"]
    found = []
    if not at_least(engine.version, wanted.engine):
        found.append(f"its Docker Engine is {engine.version}, {wanted.engine} or newer is needed")
    if not engine.compose:
        found.append("its docker command has no Compose v2 plugin ('docker compose version' fails)")
    elif not at_least(engine.compose, wanted.compose):
        found.append(f"its Compose is {engine.compose}, {wanted.compose} or newer is needed")
    return found


def decide(wanted: Wanted, engine: EngineFacts, host: Host, repository_answers: bool) -> Decision:
    """Decide where the engine comes from, whether to install anything, and what forbids it."""
    lacking = shortcomings(engine, wanted)
    source = wanted.source
    if source == "auto":
        source = "present" if not lacking else "docker" if repository_answers else "distro"

    problems = []
    if source == "present":
        install = False
        if lacking:
            problems.append(
                f"docker_source is 'present', but {'; '.join(lacking)}: install one on the host, "
                "or set docker_source to auto, docker or distro"
            )
    else:
        install = bool(lacking) or engine.kind != source
    if install:
        problems += _cannot_install(source, wanted, engine, host, repository_answers)
    if wanted.live_restore and engine.swarm:
        problems.append(
            "docker_live_restore is true, but this engine is a Swarm node and would not start "
            "with it: set docker_live_restore to false"
        )
    return Decision(source, install, problems)


def _cannot_install(
    source: str, wanted: Wanted, engine: EngineFacts, host: Host, repository_answers: bool
) -> list[str]:
    problems = []
    if host.os_id not in ("debian", "ubuntu"):
        problems.append(
            f"no way to install Docker on '{host.os_id or 'an unknown system'}' (Debian and "
            "Ubuntu are known): install it yourself and set docker_source to present"
        )
    elif source == "distro" and host.codename not in wanted.distro_releases:
        problems.append(
            f"docker_source is '{wanted.source}' and {host.os_id} '{host.codename}' has no known "
            f"Docker packages of its own (known: {', '.join(wanted.distro_releases)}): set "
            "docker_source to docker, or install an engine and set it to present"
        )
    elif source == "distro" and host.codename in wanted.next_suites and not host.has_mirror:
        problems.append(
            f"docker_source is '{wanted.source}': Compose v2 comes from "
            f"{wanted.next_suites[host.codename]}, but no apt source of suite "
            f"'{host.codename}' (component main) names a mirror to take it from: add one "
            "under /etc/apt/sources.list.d, or set docker_source to docker"
        )
    elif source == "docker" and not repository_answers:
        problems.append(
            "docker_source is 'docker', but docker_repository_url does not answer from this "
            "host: open the way to it, or set docker_source to distro"
        )
    if engine.version and engine.containers and not wanted.replace:
        what = f"Docker Engine {engine.version} ({engine.kind})"
        problems.append(
            f"{what} would be replaced by one from '{source}' while {engine.containers} "
            "container(s) run, which stops them: set docker_source to present to keep it, or "
            "docker_replace_engine to true in a maintenance window"
        )
    return problems


# --- apt's sources -----------------------------------------------------------------------


class AptEntry(TypedDict):
    """An entry of apt's sources."""

    types: list[str]
    uris: list[str]
    suites: list[str]
    components: list[str]
    signed_by: str


class Mirror(TypedDict):
    """A mirror, and the keys that sign what comes from it."""

    uri: str
    signed_by: str


def apt_sources(text: str, deb822: bool) -> list[AptEntry]:
    """Return the ``deb`` entries of a .sources (deb822) or .list file that are switched on."""
    entries = _deb822_entries(text) if deb822 else _one_line_entries(text)
    return [entry for entry in entries if "deb" in entry["types"]]


def _one_line_entries(text: str) -> list[AptEntry]:
    entries: list[AptEntry] = []
    pattern = re.compile(r"^\s*(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)")
    for match in filter(None, map(pattern.match, text.splitlines())):
        options = dict(o.split("=", 1) for o in (match[2] or "").split() if "=" in o)
        entries.append(
            {
                "types": [match[1]],
                "uris": [match[3]],
                "suites": [match[4]],
                "components": match[5].split(),
                "signed_by": options.get("signed-by", ""),
            }
        )
    return entries


def _deb822_entries(text: str) -> list[AptEntry]:
    entries: list[AptEntry] = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[key] = fields.get(key, "") + "\n" + line
            elif ":" in line:
                key, value = line.split(":", 1)
                key = key.strip().lower()
                fields[key] = value.strip()
        if not fields.get("uris") or fields.get("enabled", "yes").lower() in ("no", "false"):
            continue
        entries.append(
            {
                "types": fields.get("types", "").split(),
                "uris": fields["uris"].split(),
                "suites": fields.get("suites", "").split(),
                "components": fields.get("components", "").split(),
                "signed_by": fields.get("signed-by", ""),
            }
        )
    return entries


def mirror_of(entries: Sequence[AptEntry], suite: str) -> Mirror | None:
    """Return {uri, signed_by} of the first entry that serves ``suite``'s main component."""
    for entry in entries:
        if suite in entry["suites"] and "main" in entry["components"]:
            return {"uri": entry["uris"][0], "signed_by": entry["signed_by"]}
    return None


# --- daemon.json -------------------------------------------------------------------------


def merged(existing: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``wanted`` into ``existing``: foreign keys stay, a wanted null removes a key."""
    result = dict(existing)
    for key, value in wanted.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the top level keys that differ."""
    missing = object()
    return sorted(key for key in {*old, *new} if old.get(key, missing) != new.get(key, missing))


def restart_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the keys that differ and that a reload does not bring into force."""
    found = [key for key in changed_keys(old, new) if key not in RELOADABLE]
    stores = [_image_store(config) for config in (old, new)]
    if stores[0] != stores[1]:
        found.append(f"features.{IMAGE_STORE}")
    return found


def _image_store(config: Mapping[str, Any]) -> Any:
    features = config.get("features")
    return features.get(IMAGE_STORE) if isinstance(features, Mapping) else None


def action_for(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return what a running engine needs for a change: none, reload (SIGHUP) or restart."""
    if not changed_keys(old, new):
        return "none"
    return "restart" if restart_keys(old, new) else "reload"


# --- OpenPGP -----------------------------------------------------------------------------


def openpgp_fingerprints(data: bytes) -> list[str]:
    """Return the fingerprints of the primary (v4) keys in an armored or binary key file.

    Done here because a fresh server has no gpg, and apt's gpgv shows none.
    Raises ValueError for what is no key file.
    """
    raw = _dearmored(data)
    prints = []
    at = 0
    while at < len(raw):
        tag, body, at = _packet(raw, at)
        if tag != 6:  # 6 = public key; subkeys (14), user ids and signatures pass by
            continue
        if body[:1] != b"\x04":
            raise ValueError("an OpenPGP key of a version other than 4")
        head = b"\x99" + len(body).to_bytes(2, "big")
        prints.append(hashlib.sha1(head + body, usedforsecurity=False).hexdigest().upper())
    if not prints:
        raise ValueError("no OpenPGP key in it")
    return prints


def _dearmored(data: bytes) -> bytes:
    blocks = re.findall(
        rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----",
        data,
        re.DOTALL,
    )
    if not blocks:
        return data
    raw = b""
    for block in blocks:
        _headers, _blank, body = block.replace(b"\r", b"").partition(b"\n\n")
        if not _blank:  # no armor headers: the block starts with the blank line itself
            body = block.lstrip()
        lines = [line for line in body.split() if not line.startswith(b"=")]
        try:
            raw += base64.b64decode(b"".join(lines), validate=True)
        except binascii.Error as error:
            raise ValueError(f"damaged armor: {error}") from error
    return raw


def _packet(raw: bytes, at: int) -> tuple[int, bytes, int]:
    """Return tag, body and end of the OpenPGP packet at ``at`` (RFC 4880 4.2)."""
    try:
        first = raw[at]
        if not first & 0x80:
            raise ValueError("not an OpenPGP packet")
        if first & 0x40:
            tag = first & 0x3F
            length = raw[at + 1]
            start = at + 2
            if 192 <= length < 224:
                length = ((length - 192) << 8) + raw[at + 2] + 192
                start = at + 3
            elif length == 255:
                length = int.from_bytes(raw[at + 2 : at + 6], "big")
                start = at + 6
            elif length >= 224:
                raise ValueError("partial packets hold no keys")
        else:
            tag = (first & 0x3C) >> 2
            size = (1, 2, 4, 0)[first & 0x03]
            if not size:
                raise ValueError("a packet of indeterminate length")
            length = int.from_bytes(raw[at + 1 : at + 1 + size], "big")
            start = at + 1 + size
    except IndexError as error:
        raise ValueError("cut short") from error
    if start + length > len(raw):
        raise ValueError("cut short")
    return tag, raw[start : start + length], start + length
