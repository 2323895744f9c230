"""Protection of the entry point from foreign hosts and headers, guessing and slow clients.

Pure functions. `guard_problems` judges the operator's variables; `guard_model` turns those that
were found fit into what the template of nginx reads. ``proxy.entry`` calls both.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from ..model.validators import LOCATION, Form, is_address, quoted, whole
from .maintenance_pass import SECRET
from .public_url import HOST, parse_url, url_host

RATE = re.compile(r"(?P<count>[1-9][0-9]{0,5})r/(?P<unit>[sm])\Z")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_BURST = 100_000
DEFAULT_BURST = 10
LOGIN_LIMIT = {"rate": "1r/s", "burst": DEFAULT_BURST}
# Half of the requests that nginx's memory allows: see proxy.resources.
AUTO = "auto"
MAX_CONNECTIONS = 65535  # nginx takes no more for limit_conn
MAX_TIMEOUT = 3600
# A port of a Host header. Starlette takes the container's own address for a host with another one.
PORT = "(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
# A Host header with a port that there is, or none; whose host it is, `hosts` says.
HOST_WITH_PORT = rf"^(?:\[[^]]*\]|[^][:]*)(?::{PORT})?\z"
HEADER_TIMEOUT, BODY_TIMEOUT = 10, 30

# Headers that say who, where or by what the client is. A trusted proxy may say so; of others they
# are removed.
BELIEVED_HEADERS = (
    *("Forwarded", "X-Forwarded-Prefix", "X-Forwarded-Protocol", "X-Forwarded-Ssl"),
    *("Front-End-Https", "X-Script-Name"),
    # Addresses that content delivery networks put in.
    *("True-Client-Ip", "CF-Connecting-Ip", "CF-Visitor", "Fastly-Client-Ip", "Fly-Client-Ip"),
    *("X-Azure-Clientip", "X-Envoy-External-Address"),
    # Users that an authenticating proxy puts in.
    *("Remote-User", "Remote-Groups", "Remote-Name", "Remote-Email", "X-Remote-User"),
    *("X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups", "X-Forwarded-Access-Token"),
    *("X-Forwarded-Preferred-Username", "X-Auth-Request-User", "X-Auth-Request-Email"),
    *("X-Auth-Request-Groups", "X-Auth-Request-Preferred-Username"),
    *("X-Auth-Request-Access-Token", "X-Webauth-User", "X-Authenticated-User"),
    # Certificates of clients.
    *("X-Forwarded-Client-Cert", "X-Client-Cert", "X-Client-Verify", "X-Client-Dn"),
    *(
        "X-Ssl-Cert",
        "X-Ssl-Client-Cert",
        "X-Ssl-Client-Verify",
        "X-Ssl-Client-S-Dn",
        "Ssl-Client-Cert",
    ),
)
# Other names for what nginx itself says, and paths that take the place of the one asked for:
# proxies pass them on as a client sends them, so they come from nobody.
DROPPED_HEADERS = (
    *("X-Scheme", "X-Forwarded-Scheme", "X-Url-Scheme"),
    *("X-Original-Url", "X-Rewrite-Url", "X-Original-Uri", "X-Forwarded-Uri", "X-Forwarded-Path"),
    *("X-Request-Uri", "X-Envoy-Original-Path", "X-Forwarded-Method", "X-Original-Method"),
    *("X-Host", "X-Original-Host", "X-Forwarded-Server", "X-Http-Host-Override"),
    *("X-Http-Destinationurl", "X-Forwarded", "Forwarded-For", "X-Original-Forwarded-For"),
    *("X-Forwarded-By", "X-Client-Ip", "Client-Ip", "X-Cluster-Client-Ip", "X-Originating-Ip"),
    *("X-Remote-Ip", "X-Remote-Addr", "X-Proxyuser-Ip", "X-Custom-Ip-Authorization"),
    # Programs that read the environment of CGI take it for their proxy (CVE-2016-5385).
    "Proxy",
    # For nginx alone.
    "X-Crisper-Pass",
)
# RFC 9110, 7.6.1, and what frames a body: nginx says these, or the application does.
HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection"}
    | {"te", "trailer", "transfer-encoding", "upgrade", "host", "expect", "http2-settings"}
)
FRAMING = frozenset(
    {"content-length", "content-encoding", "content-range", "content-type", "accept-ranges"}
    | {"date", "server", "location", "retry-after", "set-cookie", "www-authenticate", "etag"}
    | {"last-modified", "vary", "age"}
)

PATH_REMEDY = (
    "give a path that begins with '/', of letters, digits and -._~!&()*+,=:@, without '.', '..' and"
    " '//'"
)
RATE_REMEDY = "give requests per second or minute, such as 10r/s or 100r/m."
HOST_REMEDY = (
    "give a host name or address without a port, '*.example.com' for all names below example.com,"
    " or '*' for any."
)


def _between(low: int, high: int) -> Any:
    return lambda value: (number := whole(value)) is not None and low <= number <= high


CONNECTIONS = Form(
    lambda value: value == AUTO or _between(0, MAX_CONNECTIONS)(value),
    f"give a number of requests from 1 to {MAX_CONNECTIONS}, 0 for no limit, or auto (half of what"
    " nginx's memory allows).",
)
SECONDS = Form(
    _between(1, MAX_TIMEOUT), f"give a whole number of seconds from 1 to {MAX_TIMEOUT} (an hour)."
)
FORMS = {
    "stack_client_connections": CONNECTIONS,
    "stack_header_timeout": SECONDS,
    "stack_body_timeout": SECONDS,
}


# --- Findings ----------------------------------------------------------------------------------


def guard_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the variables, one sentence each, with the remedy."""
    for name, form in FORMS.items():
        if name in values and not form.matches(values[name]):
            yield f"{name} is {quoted(values[name])}: {form.remedy}"
    yield from _login_problems(values)
    yield from _host_problems(values)
    yield from _header_problems(values.get("stack_security_headers"))
    yield from _secret_problems(values)


def limit_problems(place: str, limit: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with rate, burst and methods of one limit."""
    rate = limit.get("rate")
    if not isinstance(rate, str) or not RATE.match(rate):
        yield f"{place}.rate is {quoted(rate)}: {RATE_REMEDY}"
    if not _between(0, MAX_BURST)(limit.get("burst", DEFAULT_BURST)):
        yield (
            f"{place}.burst is {quoted(limit['burst'])}: give a whole number of requests from 0 to"
            f" {MAX_BURST}."
        )
    methods = limit.get("methods", [])
    if not isinstance(methods, (list, tuple)) or not all(one in METHODS for one in methods):
        yield (
            f"{place}.methods is {quoted(methods)}: give a list of {', '.join(METHODS)};"
            " leave it out for all."
        )


def _login_problems(values: Mapping[str, Any]) -> Iterator[str]:
    where = "stack_login_paths"
    paths = values.get(where, [])
    if isinstance(paths, str) or not isinstance(paths, Sequence):
        yield f"{where} is {quoted(paths)}: give a list of paths, such as [/login, /admin/login]."
        paths = ()
    for index, path in enumerate(paths):
        if not _is_login(path):
            yield f"{where}[{index}] is {quoted(path)}: {PATH_REMEDY}, other than '/'."
    limit = values.get("stack_login_limit", LOGIN_LIMIT)
    if not isinstance(limit, Mapping):
        yield f"stack_login_limit is {quoted(limit)}: give a mapping with rate and burst."
        return
    for key in limit:
        if key not in LOGIN_LIMIT:
            yield f"stack_login_limit has the key {quoted(key)}: give rate and burst, and no other."
    yield from limit_problems("stack_login_limit", {**LOGIN_LIMIT, **_without(limit, "methods")})


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if isinstance(key, str) and key != name}


def _is_login(path: Any) -> bool:
    plain = isinstance(path, str) and bool(LOCATION.match(path)) and "//" not in path
    return plain and path != "/" and not {".", ".."} & set(path.split("/"))


def _host_problems(values: Mapping[str, Any]) -> Iterator[str]:
    where = "stack_accepted_hosts"
    hosts = values.get(where, [])
    if isinstance(hosts, str) or not isinstance(hosts, Sequence):
        yield f"{where} is {quoted(hosts)}: give a list of host names."
        return
    for index, host in enumerate(hosts):
        if not _is_host(host):
            yield f"{where}[{index}] is {quoted(host)}: {HOST_REMEDY}"


def _is_host(host: Any) -> bool:
    if not isinstance(host, str):
        return False
    name = host[2:] if host.startswith("*.") else host
    return host == "*" or (host == name and is_address(name)) or bool(HOST.match(name))


def _header_problems(headers: Any) -> Iterator[str]:
    """Yield names that are not for stack_security_headers; what is no name is checked elsewhere."""
    if not isinstance(headers, Mapping):
        return
    for name in headers:
        lower = str(name).lower()
        where = f"stack_security_headers.{quoted(name)[1:-1] if isinstance(name, str) else name}"
        if lower in HOP_BY_HOP:
            yield f"{where}: this header is about one connection, and nginx's own; remove it."
        elif lower in FRAMING:
            yield (
                f"{where}: this header describes one answer, so that it cannot be the same for all;"
                " remove it."
            )
    names = Counter(str(name).lower() for name in headers)
    for name, count in names.items():
        if count > 1:
            yield (
                f"stack_security_headers has {quoted(name)} {count} times: upper and lower case"
                " make no other header; remove the others."
            )


def _secret_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield uses of the token of the maintenance page, which is the stack's own."""
    remedy = "is made on the server (docs/ENTRY.md): choose another name."
    secrets = values.get("stack_secrets")
    if isinstance(secrets, Mapping) and SECRET in secrets:
        yield f"stack_secrets.{SECRET} {remedy}"
    app = values.get("stack_app")
    environment = app.get("secret_environment") if isinstance(app, Mapping) else None
    for name, secret in environment.items() if isinstance(environment, Mapping) else ():
        if secret == SECRET:
            yield f"stack_app.secret_environment.{name} names {SECRET}, which {remedy}"


# --- The model ---------------------------------------------------------------------------------


class Limit(TypedDict):
    """A limit of requests as the template reads it; patterns are those of nginx's map."""

    name: str
    source: str
    pattern: str
    unlimited: str
    methods: list[str]
    rate: str
    burst: int


def seconds_between(rate: str) -> int:
    """Return after how many seconds (at least 1) a limit lets the next request pass."""
    match = RATE.match(rate)
    assert match is not None  # noqa: S101 (judged by limit_problems)
    return math.ceil((1 if match["unit"] == "s" else 60) / int(match["count"]))


def guard_model(
    values: Mapping[str, Any],
    limits: Sequence[Limit],
    logins: Collection[str],
    exempt: Collection[str],
) -> dict[str, Any]:
    """Return what the template of nginx reads.

    Args:
        values: the shared variables of role ``stack`` by name, without findings.
        limits: of stack_rate_limits and locations, with ``source``, ``pattern``, ``rate``.
        logins: paths of locations that are logins.
        exempt: patterns of paths with a limit of their own in place of that of logins.

    Returns:
        ``logins`` (``patterns`` of paths, ``exempt`` patterns before them, ``rate``, ``burst``;
        without patterns there is no limit), ``waits`` (pattern of "<method> <path>" and the
        seconds of Retry-After, the longest first), ``hosts`` (patterns of accepted names; empty),
        ``header_timeout``, ``body_timeout``, ``client_connections``, ``believed_headers`` and
        ``dropped_headers``.
    """
    limit = {**LOGIN_LIMIT, **(values.get("stack_login_limit") or {})}
    paths = [*(values.get("stack_login_paths") or []), *logins]
    patterns = list(dict.fromkeys(_login_pattern(path) for path in paths))
    return {
        "logins": {
            "patterns": patterns,
            "exempt": list(exempt),
            "rate": str(limit["rate"]),
            "burst": int(limit["burst"]),
        },
        "waits": _waits(limits, patterns, limit["rate"]),
        "hosts": _hosts(values),
        "host_with_port": HOST_WITH_PORT,
        "header_timeout": int(values.get("stack_header_timeout", HEADER_TIMEOUT)),
        "body_timeout": int(values.get("stack_body_timeout", BODY_TIMEOUT)),
        "client_connections": str(values.get("stack_client_connections", AUTO)),
        "believed_headers": list(BELIEVED_HEADERS),
        "dropped_headers": list(DROPPED_HEADERS),
    }


def _waits(limits: Sequence[Limit], logins: Sequence[str], login_rate: str) -> list[dict[str, Any]]:
    """Return the pattern and the seconds of Retry-After of each limit, the longest first."""
    waits = [(_of_request(one), seconds_between(one["rate"])) for one in limits]
    wait = seconds_between(login_rate)
    waits += [(_of_request({"pattern": pattern}), wait) for pattern in logins]
    longest = sorted((one for one in waits if one[1] > 1), key=lambda one: -one[1])
    return [{"pattern": pattern, "seconds": seconds} for pattern, seconds in longest]


def _login_pattern(path: str) -> str:
    """Return a login path as nginx's map takes it: with and without a slash, in any case."""
    return f"~*^{re.escape(path.rstrip('/'))}/?\\z"


def _of_request(limit: Mapping[str, Any]) -> str:
    """Return a limit's pattern for "<method> <path>"."""
    pattern = str(limit["pattern"])
    if limit.get("methods"):
        return pattern
    sign, _, path = pattern.partition("^")
    return rf"{sign}^\S+ {path}"


def request_pattern(path: str, methods: Sequence[str]) -> str:
    """Return a pattern of "<method> <path>" for a pattern of paths; that itself for all methods."""
    sign, _, rest = path.partition("^")
    return f"{sign}^(?:{'|'.join(methods)}) {rest}" if methods else path


def accepted_hosts(values: Mapping[str, Any]) -> list[str]:
    """Return the names (IPv6 without brackets) that requests may ask for; empty for any."""
    extra = [str(host).lower() for host in values.get("stack_accepted_hosts") or []]
    names = [str(name).lower() for name in values.get("stack_server_names") or []]
    public = parse_url(values.get("stack_public_url") or "")
    names += [public[1]] if public else []
    if "*" in extra or not (names or extra):
        return []
    app = values.get("stack_app")
    web = app.get("web") if isinstance(app, Mapping) else None
    health = str(web.get("health_host") or "") if isinstance(web, Mapping) else ""
    parts = parse_url(f"http://{health}") if health else None
    names += [parts[1]] if parts else []
    return list(dict.fromkeys(name.rstrip(".") for name in (*names, *extra)))


def _hosts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return patterns of accepted names, and of these as a Host header has them; empty for any."""
    hosts = "|".join(_host_pattern(host) for host in accepted_hosts(values))
    if not hosts:
        return {}
    name = rf"~*^(?:{hosts})\.?"
    return {"name": rf"{name}\z", "header": rf"{name}(?::{PORT})?\z"}


def _host_pattern(host: str) -> str:
    if host.startswith("*."):
        return r"[a-z0-9_.-]+\." + re.escape(host[2:])
    if is_address(host):
        host = str(ipaddress.ip_address(host))
    return re.escape(url_host(host))
