"""What serves on a host now: asked of the engine and of nginx, never assumed.

`judge` is a pure function of what `look` gathered. Runs on the target's Python (3.8 or newer).
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.module_utils.crisper_https import connect, get, reason
from ansible.module_utils.crisper_output import last_lines
from ansible.module_utils.crisper_rollout import Container, parse_inspect

Call = Callable[..., "tuple[int, str, str]"]

MANIFEST = "manifest.json"  # as crisper_release has it, which imports more than is needed here
ENGINE_TIMEOUT = 20  # seconds for one command of the Docker client
# The ports of nginx's container, by the scheme that they speak.
DOORS = {"https": "8443/tcp", "http": "8080/tcp"}
# What answers requests: nginx, and the services that a rollout calls "web".
PROXY, WEB = "nginx", "web"


@dataclass(frozen=True)
class Http:
    """What nginx answered a request from the host itself."""

    url: str = ""  # '' = nothing was asked
    status: int = -1  # -1 = no answer
    error: str = ""
    expected: Sequence[int] = (200,)

    @property
    def ok(self) -> bool:
        """Return whether the application answered; a redirect is an answer of it, too."""
        return self.status in self.expected or 300 <= self.status < 400


@dataclass(frozen=True)
class Gathered:
    """What was gathered on the host."""

    engine_error: str = ""  # why the engine does not answer; '' = it does
    data_root: str = ""
    containers: Sequence[Container] = ()
    # Service -> {kind, replicas} of the current release; empty for releases of before.
    services: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    current: str = ""  # id of the current release, '' = there is none
    linked: str = ""  # id of the release that nginx sends requests to; '' = unknown
    maintenance: bool = False
    http: Http = Http()


def judge(found: Gathered) -> dict[str, Any]:
    """Return ``{release, serves, known, text}`` of what was gathered.

    ``known`` is whether the engine answers, and nothing that it does not see answers requests;
    ``serves`` whether the application answers and all its containers that answer requests are
    healthy; ``release`` whose they are.
    """
    asked = _http_text(found.http)
    if found.engine_error:
        text = "; ".join(
            filter(None, [f"unknown: the engine does not answer ({found.engine_error})", asked])
        )
        return {"release": "", "serves": False, "known": False, "text": text}
    web = [c for c in found.containers if _is_web(c, found.services)]
    proxies = [c for c in found.containers if c.service == PROXY]
    running = [c for c in web if c.state == "running"]
    if not running and not any(c.state == "running" for c in proxies):
        where = f"data-root {found.data_root}" if found.data_root else ""
        text = "no container of nginx or the application runs in this engine"
        # Something else answers there: containers that this engine does not see, perhaps.
        known = not found.http.ok
        text = _join(f"{'nothing' if known else 'unknown'}: {text}", where, asked)
        return {"release": "", "serves": False, "known": known, "text": text}
    releases = sorted({c.release for c in running if c.release})
    release = found.linked if found.linked in releases else (releases[0] if releases else "")
    counts, whole = _counts(found, web, proxies, release)
    serves = whole and found.http.ok and not found.maintenance
    if serves:
        text = f"release {release or 'of unknown id'}"
    elif found.maintenance and whole and found.http.ok:
        text = f"the maintenance page; behind it release {release or 'of unknown id'}"
    elif found.http.ok:
        text = f"release {release or 'of unknown id'}, not whole"
    else:
        text = "nothing that answers as it should"
    others = [each for each in releases if each != release]
    details = [", ".join(counts), asked]
    if others:
        details.append(f"containers of release {' and '.join(others)} run too")
    if found.maintenance and not text.startswith("the maintenance"):
        details.append("the maintenance page is shown")
    return {"release": release, "serves": serves, "known": True, "text": _join(text, *details)}


def _join(text: str, *details: str) -> str:
    shown = "; ".join(filter(None, details))
    return f"{text} ({shown})" if shown else text


def _is_web(container: Container, services: Mapping[str, Mapping[str, Any]]) -> bool:
    if services:
        return services.get(container.service, {}).get("kind") == WEB
    return container.service in ("backend", "frontend")


def _counts(
    found: Gathered, web: Sequence[Container], proxies: Sequence[Container], release: str
) -> tuple[list[str], bool]:
    """Return how many containers of each service are healthy, and whether that is all of them."""
    wanted = {PROXY: 1}
    for name, service in found.services.items():
        if service.get("kind") == WEB:
            wanted[name] = int(service.get("replicas", 1))
    for container in web:
        wanted.setdefault(container.service, 1)
    counts, whole = [], True
    for name, number in wanted.items():
        mine = proxies if name == PROXY else [c for c in web if c.release == release]
        fit = len([c for c in mine if c.service == name and c.fit])
        counts.append(f"{name} {fit} of {number} healthy")
        whole = whole and fit >= number
    return counts, whole


def _http_text(answer: Http) -> str:
    if not answer.url:
        return ""
    if answer.status < 0:
        return f"{answer.url} does not answer: {answer.error}"
    return f"{answer.url} answers {answer.status}"


# --- gathering ---------------------------------------------------------------------------


def docker(cli: str) -> Call:
    """Return a function that runs a Docker command and never raises nor hangs."""

    def call(*arguments: str) -> tuple[int, str, str]:
        if shutil.which(cli) is None:
            return 127, "", f"there is no Docker client {cli}"
        try:
            done = subprocess.run(
                [cli, *arguments],
                capture_output=True,
                text=True,
                timeout=ENGINE_TIMEOUT,
                check=False,
                errors="replace",
            )
        except subprocess.TimeoutExpired:
            return 124, "", f"no answer within {ENGINE_TIMEOUT} s"
        except OSError as error:
            return 126, "", str(error)
        return done.returncode, done.stdout, done.stderr

    return call


def look(root: Path, project: str, call: Call, timeout: float = 5) -> Gathered:
    """Gather what serves; raises nothing, because it is asked when things have gone wrong.

    Args:
        root: folder of the stack.
        project: Compose project.
        call: runs a Docker command; exit code, output and errors.
        timeout: seconds to wait for nginx's answer.
    """
    manifest = _read_manifest(root)
    model = manifest.get("model") or {}
    records, data_root, problem = _containers(project, call)
    nginx = [r for r in records if _label(r, "com.docker.compose.service") == PROXY]
    front = model.get("front") or {}
    return Gathered(
        engine_error=problem,
        data_root=data_root,
        containers=parse_inspect(records),
        services=model.get("rollout") or {},
        current=str(manifest.get("id", "")),
        linked=_link(root / "live" / "nginx" / "serving"),
        maintenance=(root / "live" / "nginx" / "maintenance.on").exists(),
        http=_ask(*door(nginx, front), front, _probe(model), timeout),
    )


def _read_manifest(root: Path) -> dict[str, Any]:
    try:
        found = json.loads((root / "current" / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _link(path: Path) -> str:
    try:
        return os.path.basename(os.readlink(path))
    except OSError:
        return ""


def _containers(project: str, call: Call) -> tuple[list[dict[str, Any]], str, str]:
    """Return the records of the stack's containers, the data-root, and why there are none."""
    code, out, err = call("info", "--format", "{{json .}}")
    try:
        info = json.loads(out) if code == 0 else {}
    except ValueError:
        info = {}
    if not info.get("ServerVersion"):
        errors = err.strip() or " ".join(map(str, info.get("ServerErrors") or ()))
        return [], "", last_lines(errors, 1) or f"`docker info` ended with {code}"
    root = str(info.get("DockerRootDir", ""))
    only = f"label=com.docker.compose.project={project}"
    code, out, err = call("ps", "--all", "--quiet", "--no-trunc", "--filter", only)
    if code != 0:
        return [], root, last_lines(err, 1) or f"`docker ps` ended with {code}"
    if not out.split():
        return [], root, ""
    _code, out, _err = call("container", "inspect", *out.split())
    try:
        return json.loads(out or "[]"), root, ""
    except ValueError as error:
        return [], root, f"its answer cannot be read: {error}"


def _label(record: Mapping[str, Any], name: str) -> str:
    return str(((record.get("Config") or {}).get("Labels") or {}).get(name, ""))


def _probe(model: Mapping[str, Any]) -> tuple[str, Sequence[int]]:
    """Return the path to ask for, and what it is expected to answer."""
    probe = (model.get("probes") or {}).get("backend") or {}
    return str(probe.get("path") or "/-/nginx"), tuple(probe.get("status") or (200,))


def door(nginx: Sequence[Mapping[str, Any]], front: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return scheme, address and port at which nginx is asked from its own host; port 0 = nowhere.

    What nginx's container publishes counts; the current release's model where there is none.
    """
    for record in nginx:
        published = (record.get("NetworkSettings") or {}).get("Ports") or {}
        for scheme, inside in DOORS.items():
            for binding in published.get(inside) or ():
                address = str(binding.get("HostIp") or "")
                here = address if address not in ("", "0.0.0.0", "::") else "127.0.0.1"  # noqa: S104
                return scheme, here, int(binding["HostPort"])
    scheme = str(front.get("scheme") or "http") if front.get("tls") else "http"
    return scheme, "127.0.0.1", int(front.get("port") or 0)


def _ask(
    scheme: str,
    address: str,
    port: int,
    front: Mapping[str, Any],
    probe: tuple[str, Sequence[int]],
    timeout: float,
) -> Http:
    """Ask nginx for the health path of the application, as its own host."""
    if not port:
        return Http()
    path, expected = probe
    name = str(front.get("host") or (front.get("public") or {}).get("host") or address)
    url = f"{scheme}://{address}:{port}{path}"
    context = None
    if scheme == "https":  # whether the certificate is to be trusted is not the question here
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    headers = {"Host": name, "X-Crisper-Pass": "look"}
    try:
        proxied = bool(front.get("proxy_protocol"))
        connection = connect(address, port, name, context, timeout, proxied)
        return Http(url, get(connection, path, headers)[0], "", expected)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return Http(url, -1, reason(error), expected)


def describe(root: Path, project: str, cli: str, timeout: float = 5) -> dict[str, Any]:
    """Look and judge: the result of M(serving_facts), without `changed`."""
    found = look(root, project, docker(cli), timeout)
    return {
        **judge(found),
        "current": found.current,
        "maintenance": found.maintenance,
        "engine": {"error": found.engine_error, "data_root": found.data_root},
        "http": {
            "url": found.http.url,
            "status": found.http.status,
            "error": found.http.error,
            "ok": bool(found.http.url) and found.http.ok,
        },
        "containers": [
            {
                "name": c.name,
                "service": c.service,
                "release": c.release,
                "state": c.state,
                "health": c.health,
            }
            for c in found.containers
        ],
    }
