"""Ask registries which image is behind a reference now, and compare it with the one on the host.

The engine is asked (``/distribution/<reference>/json``): its mirrors, its proxies and its
certificates count, as for a pull. The logins are those of the Docker client's configuration.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..output import last_lines
from ..text import printable

HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"  # what the client's configuration calls Docker Hub
# Label of platform images that this repository builds on the host itself: their name. An image that
# is built on one of them, or pushed elsewhere under another name, inherits it.
PLATFORM = "crisper.platform"
# One line per image; everything that decides whether its reference is asked for.
FORMAT = '{"id": {{json .Id}}, "labels": {{json .Config.Labels}}, "digests": {{json .RepoDigests}}}'


def is_pinned(reference: str) -> bool:
    """Return whether a reference names one image for ever: ``…@sha256:…``."""
    return "@" in reference


def repository(reference: str) -> str:
    """Return the full name of a reference's repository: ``docker.io/library/redis``."""
    name = reference.partition("@")[0]
    folder, slash, last = name.rpartition("/")
    name = folder + slash + last.partition(":")[0]
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first, rest = HUB, name
    if first == "index.docker.io":
        first = HUB
    return f"{first}/{rest if first != HUB or '/' in rest else f'library/{rest}'}"


def pulled_digests(reference: str, image: Mapping[str, Any]) -> set[str]:
    """Return the digests by which an image on the host came from the registry of `reference`.

    Args:
        reference: what the image is wanted by.
        image: ``{labels, digests}``, as the engine has them (`FORMAT`).

    Returns:
        Empty for images that were built, loaded or tagged on the host.
    """
    wanted = repository(reference)
    # With the image store of containerd images that were built here have such digests, too.
    if (image.get("labels") or {}).get(PLATFORM) == wanted.rpartition("/")[2]:
        return set()
    pairs = (entry.partition("@") for entry in image.get("digests") or ())
    return {digest for name, _, digest in pairs if repository(name) == wanted}


@dataclass(frozen=True)
class Answer:
    """The digest that a registry has behind a reference, or the reason why there is none."""

    reference: str
    digest: str = ""
    problem: str = ""


@dataclass
class Comparison:
    """Images of registries compared with those on the host."""

    # Reference -> digest of the other image that its registry has now.
    moved: dict[str, str] = field(default_factory=dict)
    # Reference -> why its registry did not say.
    unanswered: dict[str, str] = field(default_factory=dict)


def compare(
    images: Mapping[str, Mapping[str, Any]], ask: Callable[[list[str]], Iterable[Answer]]
) -> Comparison:
    """Ask for every moving reference whose image came from a registry, and compare.

    Args:
        images: reference -> ``{labels, digests}`` of the image on the host.
        ask: gives an answer for each reference.
    """
    known = {
        reference: pulled_digests(reference, image)
        for reference, image in images.items()
        if not is_pinned(reference)
    }
    moving = sorted(reference for reference, digests in known.items() if digests)
    result = Comparison()
    for answer in ask(moving) if moving else ():
        if answer.problem:
            result.unanswered[answer.reference] = answer.problem
        elif answer.digest not in known[answer.reference]:
            result.moved[answer.reference] = answer.digest
    return result


def describe_unanswered(unanswered: Mapping[str, str]) -> str:
    """Return one warning for the references that no registry answered for; empty for none."""
    if not unanswered:
        return ""
    reasons = "; ".join(f"{name}: {problem}" for name, problem in sorted(unanswered.items()))
    return (
        "No registry said which image is behind these references now, and the images on the host"
        f" are used ({reasons}). Give registry_logins for a private registry; write references"
        " with their digest (@sha256:…), and none is asked."
    )


class Registries:
    """The registries that the engine of this host reaches."""

    def __init__(self, engine_socket: str, timeout: float) -> None:
        """Wait `timeout` seconds for answers, for all at the same time."""
        self.socket, self.timeout = engine_socket, timeout
        self.config = _client_config()

    def ask(self, references: list[str]) -> list[Answer]:
        """Return what each registry has behind these references now."""
        with ThreadPoolExecutor(max_workers=max(1, min(16, len(references)))) as pool:
            return list(pool.map(self._ask_one, references))

    def _ask_one(self, reference: str) -> Answer:
        connection = _UnixConnection(self.socket, self.timeout)
        try:
            headers = login_header(self._login(repository(reference).partition("/")[0]))
            connection.request("GET", f"/distribution/{reference}/json", headers=headers)
            reply = connection.getresponse()
            return parse_reply(reference, reply.status, reply.read())
        except TimeoutError:
            return Answer(reference, problem=f"no answer within {self.timeout:g} s")
        except (OSError, http.client.HTTPException) as error:
            return Answer(reference, problem=f"the engine did not answer at {self.socket}: {error}")
        finally:
            connection.close()

    def _login(self, registry: str) -> dict[str, str]:
        key = HUB_KEY if registry == HUB else registry
        helpers = self.config.get("credHelpers")
        helpers = helpers if isinstance(helpers, dict) else {}
        helper = helpers.get(key) or self.config.get("credsStore")
        if helper:
            return _helper_login(str(helper), key, self.timeout)
        return file_login(self.config, key)


def parse_reply(reference: str, status: int, body: bytes) -> Answer:
    """Return what the engine's answer says: a digest, or the registry's own reason."""
    try:
        content = json.loads(body)
    except ValueError:
        content = {}
    if not isinstance(content, dict):
        content = {}
    descriptor = content.get("Descriptor")
    digest = str(descriptor.get("digest") or "") if isinstance(descriptor, dict) else ""
    if status == 200 and digest:
        return Answer(reference, printable(digest))
    reason = last_lines(str(content.get("message") or ""), 1)
    return Answer(reference, problem=reason or f"HTTP {status}")


def file_login(config: Mapping[str, Any], key: str) -> dict[str, str]:
    """Return the login that the client's configuration itself holds for a registry."""
    entries = config.get("auths")
    entries = entries if isinstance(entries, Mapping) else {}
    names = (key, f"https://{key}", f"https://{key}/v1/", f"https://{key}/v2/")
    found = (entries[name] for name in names if isinstance(entries.get(name), Mapping))
    entry: Mapping[str, Any] = next(found, {})
    if entry.get("identitytoken"):
        return {"identitytoken": entry["identitytoken"], "serveraddress": key}
    try:
        user, _, password = base64.b64decode(str(entry.get("auth") or "")).decode().partition(":")
    except ValueError:
        return {}
    return {"username": user, "password": password, "serveraddress": key} if user else {}


def login_header(login: Mapping[str, str]) -> dict[str, str]:
    """Return the header by which the engine gets a login."""
    if not login:
        return {}
    return {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}


def _helper_login(helper: str, key: str, timeout: float) -> dict[str, str]:
    try:
        done = subprocess.run(
            [f"docker-credential-{helper}", "get"],
            input=key,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=True,
        )
        found = json.loads(done.stdout)
        user, secret = str(found["Username"]), str(found["Secret"])
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        return {}  # no login: the registry says whether it wants one
    if user == "<token>":
        return {"identitytoken": secret, "serveraddress": key}
    return {"username": user, "password": secret, "serveraddress": key}


def _client_config() -> dict[str, Any]:
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        found = json.loads((Path(folder) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to the engine's socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
