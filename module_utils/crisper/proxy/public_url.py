"""The URL by which browsers reach the site, and the answer that its health checks expect.

Pure functions of the operator's variables. ``model`` calls them for its findings and for
the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from ..model.validators import is_address, quoted, whole

# ASCII: else `[a-z]` takes the Kelvin sign and the long s, too, when case is ignored.
CASELESS = re.ASCII | re.IGNORECASE
LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
HOST = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(?:\.{LABEL})*\.?\Z", CASELESS)
URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?/?\Z",
    CASELESS,
)
AUTHORITY = re.compile(
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?\Z", CASELESS
)
PORTS = {"http": 80, "https": 443}
OK = 200


def url_host(name: str) -> str:
    """Return a host name or address as URLs have it: IPv6 in brackets."""
    return f"[{name}]" if ":" in name else name


def authority(scheme: str, host: str, port: int) -> str:
    """Return the Host header that a browser sends; empty without a host.

    Args:
        scheme: http or https.
        host: a name or an address, IPv6 without brackets.
        port: left out when it is the scheme's own.
    """
    if not host:
        return ""
    return url_host(host) + ("" if port == PORTS[scheme] else f":{port}")


def parse_url(url: Any) -> tuple[str, str, int] | None:
    """Return scheme, host (IPv6 without brackets) and port of a public URL; None if it is none."""
    match = URL.match(url) if isinstance(url, str) else None
    if match is None or (host := _host(match["host"])) is None:
        return None
    scheme = match["scheme"].lower()
    port = int(match["port"] or PORTS[scheme])
    return (scheme, host, port) if 1 <= port <= 65535 else None


def _host(text: str) -> str | None:
    """Return the host in lower case and without brackets; None if it is no name or address."""
    name = text.lower()
    if name.startswith("["):
        inner = name[1:-1]
        return inner if ":" in inner and is_address(inner) else None
    # What looks like an IPv4 address must be one: 10.0.0.256 is a typing error, no name.
    if re.fullmatch(r"[0-9.]+", name):
        return name if is_address(name) else None
    return name if HOST.match(name) else None


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the public URL and the health check's host and status."""
    yield from _url_problems(values)
    app = values.get("stack_app")
    web = app.get("web") if isinstance(app, Mapping) else None
    if isinstance(web, Mapping):
        yield from _health_problems(web)


def _url_problems(values: Mapping[str, Any]) -> Iterator[str]:
    url = values.get("stack_public_url", "")
    parsed = parse_url(url)
    if url not in (None, "") and parsed is None:
        yield (
            f"stack_public_url is {quoted(url)}: give scheme and host as browsers have them, such"
            " as https://app.example.com or https://app.example.com:8443, without a path."
        )
    elif parsed and parsed[0] == "http" and values.get("stack_tls", "none") != "none":
        yield (
            f"stack_public_url is {quoted(url)}, but stack_tls is"
            f" {quoted(values.get('stack_tls'))}: nginx redirects plain HTTP to HTTPS."
            " Give the https URL."
        )
    elif (
        parsed
        and parsed[0] == "https"
        and values.get("stack_tls", "none") == "none"
        and values.get("stack_trusted_proxies", True) in (None, "", [])
    ):
        yield (
            f"stack_public_url is {quoted(url)} and stack_tls is 'none', so something in front of"
            " nginx ends TLS, but stack_trusted_proxies is empty: nginx would tell the application"
            " that browsers use http. List the addresses that its requests come from."
        )


def _health_problems(web: Mapping[str, Any]) -> Iterator[str]:
    host = web.get("health_host", "")
    if host not in (None, "") and not _is_authority(host):
        yield (
            f"stack_app.web.health_host is {quoted(host)}: give a host name or an address that the"
            " application accepts, such as app.example.com or 127.0.0.1:8000."
        )
    if (status := web.get("health_status")) is not None and not expected_status(status):
        yield (
            f"stack_app.web.health_status is {quoted(status)}: give a status from 100 to 599, or a"
            " list of such, such as 200 or [200, 204]."
        )


def _is_authority(text: Any) -> bool:
    match = AUTHORITY.match(text) if isinstance(text, str) else None
    if match is None or _host(match["host"]) is None:
        return False
    return match["port"] is None or 1 <= int(match["port"]) <= 65535


def expected_status(value: Any) -> list[int]:
    """Return the statuses of a health check, sorted; empty when the value holds another thing."""
    many = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    found = [whole(item) for item in (value if many else [value])]
    valid = [status for status in found if status is not None and 100 <= status <= 599]
    return sorted(set(valid)) if len(valid) == len(found) else []


class PublicSite(TypedDict):
    """The site as browsers reach it; see `public_site`."""

    scheme: str
    host: str
    port: int
    authority: str
    url: str
    in_front: bool


class HealthProbe(TypedDict):
    """The request of a health check, and the statuses that are healthy."""

    path: str
    host: str
    status: list[int]
    scheme: str
    port: int


def public_site(values: Mapping[str, Any], proxy: Mapping[str, Any]) -> PublicSite:
    """Return how browsers reach the site.

    Args:
        values: the shared variables of role ``stack`` by name, without findings.
        proxy: scheme, names and port of nginx itself.

    Returns:
        ``scheme``, ``host`` (IPv6 without brackets; empty when no name is known), ``port``, ``url``
        (empty without a host), ``authority`` (the Host header of requests to the site; without a
        host health_host, or empty), and ``in_front``: whether something before nginx ends TLS.
    """
    app = values["stack_app"]
    names = proxy["names"]
    parsed = parse_url(values.get("stack_public_url") or "")
    scheme, host, port = parsed or (proxy["scheme"], names[0] if names else "", proxy["port"])
    name = authority(scheme, host, port)
    return {
        "scheme": scheme,
        "host": host,
        "port": port,
        "authority": name or str(app["web"].get("health_host") or ""),
        "url": f"{scheme}://{name}" if name else "",
        "in_front": scheme == "https" and proxy["scheme"] == "http",
    }


def health_probes(app: Mapping[str, Any], public: PublicSite) -> dict[str, HealthProbe]:
    """Return what the health checks of web and front end ask, by service.

    Args:
        app: stack_app, without findings.
        public: of `public_site`.

    Returns:
        ``{path, host, status, scheme, port}`` each: `host` is the Host header (empty leaves it to
        the client), `scheme` is sent as X-Forwarded-Proto, `status` lists what is healthy.
    """
    web = app["web"]
    statuses = web.get("health_status")
    host = web.get("health_host") or public["authority"] or f"127.0.0.1:{int(web['port'])}"
    found: dict[str, HealthProbe] = {
        "backend": {
            "path": str(web["health_path"]),
            "host": str(host),
            "status": [OK] if statuses is None else expected_status(statuses),
            "scheme": public["scheme"],
            "port": int(web["port"]),
        }
    }
    if frontend := app.get("frontend"):
        found["frontend"] = {
            "path": str(frontend["health_path"]),
            "host": "",
            "status": [OK],
            "scheme": "http",
            "port": int(frontend["port"]),
        }
    return found
