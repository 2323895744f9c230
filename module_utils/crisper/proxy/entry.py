"""The entry point as data: what nginx does with a path, a peer's headers, a rate and a log line.

Pure functions. `entry_problems` judges the operator's variables; `entry_model` normalizes those
that were found fit, so that the template of nginx holds loops and plain conditions only.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from ..model.validators import LOCATION, choice_remedy, quoted
from .guard import (
    DEFAULT_BURST,
    Limit,
    guard_model,
    guard_problems,
    limit_problems,
    request_pattern,
)
from .locations import (
    PATH,
    PROXIED,
    backend_path_problems,
    is_exact,
    is_login,
    location_problems,
    long_form,
    mapping,
    statuses,
)
from .routing import destination_problems, duplicate_problems

# The plain listener that no port is published of: health checks and probes of the deploy.
INTERNAL_PORT = 8081
# Where nginx has the volume of stack_app.uploads, and files that came out of the image of the
# release that serves: through the link that is read on each request (proxy.upstream).
UPLOADS, STATIC = "/srv/uploads", "/etc/crisper/serving/static"
LOG_FORMATS = ("text", "json")
# Wider networks than these are no balancer's: whoever is in them may forge client addresses.
# The unique local addresses of IPv6 are a /7.
WIDEST = 7
YEAR = 365 * 86400
STREAM_FIELDS = ("body_size", "timeout", "request_buffering", "cache")
AGAIN_FIELDS = ("buffering", "timeout", "cache")


# --- Findings ----------------------------------------------------------------------------------


def entry_problems(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the entry point's variables, one sentence each, with the remedy."""
    app = mapping(values.get("stack_app"))
    return [
        *_proxy_problems(values),
        *backend_path_problems(app),
        *location_problems(app),
        *duplicate_problems(app),
        *destination_problems(app),
        *_rate_problems(values),
        *guard_problems(values),
    ]


def _proxy_problems(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the proxies whose headers are believed."""
    where = "stack_trusted_proxies"
    networks = values.get(where, [])
    if isinstance(networks, str) or not isinstance(networks, Sequence):
        yield f"{where} is {quoted(networks)}: give a list of addresses and networks."
        networks = ()
    for index, network in enumerate(networks):
        if problem := _network_problem(network):
            yield f"{where}[{index}] is {quoted(network)}: {problem}"
    if values.get("stack_proxy_protocol") is True and not networks:
        yield (
            "stack_proxy_protocol is true, but stack_trusted_proxies is empty: name the balancer's"
            " addresses or networks there; of other peers the PROXY line is not believed."
        )
    log = values.get("stack_access_log", "text")
    if log not in LOG_FORMATS:
        yield f"stack_access_log is {quoted(log)}: {choice_remedy(log, LOG_FORMATS)}"


def _network_problem(value: Any) -> str:
    """Return the remedy for what is no network to trust; empty when it is one."""
    remedy = "give an address or a network such as 10.0.0.0/8 or 2001:db8::/32."
    if not isinstance(value, str) or "%" in value:
        return remedy
    try:
        network = ipaddress.ip_network(value, strict=False)
        exact = str(ipaddress.ip_interface(value).ip) == str(network.network_address)
    except ValueError:
        return remedy
    if str(network.network_address) == "255.255.255.255":
        return "it is the address of a broadcast, which nginx takes for a name; no proxy has it."
    if network.prefixlen < WIDEST:
        return (
            "from so many addresses anybody could forge who the client is: name the networks of"
            f" your balancer only, none wider than /{WIDEST}."
        )
    return "" if exact else f"it has bits behind its prefix; did you mean {network}?"


def _rate_problems(values: Mapping[str, Any]) -> Iterator[str]:
    where = "stack_rate_limits"
    limits = values.get(where, [])
    if isinstance(limits, str) or not isinstance(limits, Sequence):
        yield f"{where} is {quoted(limits)}: give a list of mappings with path, rate and burst."
        return
    for index, limit in enumerate(limits):
        if not isinstance(limit, Mapping):
            yield f"{where}[{index}] is {quoted(limit)}: give a mapping with path and rate."
            continue
        if not PATH.matches(limit.get("path")):
            yield f"{where}[{index}].path is {quoted(limit.get('path'))}: {PATH.remedy}"
        yield from limit_problems(f"{where}[{index}]", limit)
    paths = Counter(str(mapping(limit).get("path")) for limit in limits)
    for path, count in paths.items():
        if count > 1:
            yield f"{where}: {quoted(path)} is listed {count} times: give each path one limit."


# --- The model ---------------------------------------------------------------------------------


def entry_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template of nginx reads of checked variables.

    Returns:
        ``trusted`` (networks whose headers are believed), ``proxy_protocol``, ``access_log``,
        ``locations`` (in the order of the configuration, each with ``match`` as nginx writes it),
        ``streams`` (named locations without buffering, for those who accept an event stream),
        ``agains`` (named locations for second tries; each location's and stream's ``again``),
        ``caches`` (values of Cache-Control for services that send none),
        ``limits`` (each with its zone's ``name``, the ``source`` of its map, ``pattern`` and
        ``unlimited`` of that, ``rate``, ``burst``), ``unlimited`` (pattern of the path that health
        checks ask, or empty), ``uploads`` (whether nginx has the volume), ``static`` (folders that
        come out of the application's image), ``internal_port``, and what `guard_model` returns.
    """
    app = mapping(values.get("stack_app"))
    limits = _limits(values, app)
    locations = [_location(item, app) for item in long_form(app)]
    streams = _streams(locations)
    agains = _agains([*locations, *streams])
    return {
        "trusted": _networks(values.get("stack_trusted_proxies") or []),
        "proxy_protocol": values.get("stack_proxy_protocol") is True,
        "access_log": str(values.get("stack_access_log", "text")),
        "locations": locations,
        "streams": streams,
        "agains": agains,
        "caches": _caches(locations),
        "limits": limits,
        "unlimited": _unlimited(app),
        "uploads": any(item["uploads"] for item in locations),
        "static": _outermost({item["source"] for item in locations if item["source"]}),
        "internal_port": INTERNAL_PORT,
        **guard_model(
            values,
            limits,
            [location["path"] for location in locations if location["login"]],
            _patterns_of_own_limits(app),
        ),
    }


def _location(item: Mapping[str, Any], app: Mapping[str, Any]) -> dict[str, Any]:
    kind, path = item["kind"], item["path"]
    alias = posixpath.normpath(item["alias"]) if kind == "static" else ""
    uploads = posixpath.normpath(app["uploads"]) if app.get("uploads") else ""
    of_volume = bool(alias and uploads) and (alias == uploads or _below(alias, uploads))
    inside = UPLOADS + alias[len(uploads) :] if of_volume else STATIC + alias
    exact = is_exact(item)
    return {
        "kind": kind,
        "path": path,
        "match": f"= {path}" if exact else path,
        # With a limit of its own the built-in one does not count.
        "login": kind == "backend" and is_login(path) and "rate_limit" not in item,
        "stream": "",
        "again": "",
        "body_size": str(item.get("body_size", "")),
        "timeout": int(item.get("timeout", 0)),
        "buffering": bool(item.get("buffering", True)),
        "request_buffering": bool(item.get("request_buffering", True)),
        "cache": _cache_control(item.get("cache", "none")),
        "alias": (inside if exact else f"{inside}/") if alias else "",
        "uploads": of_volume,
        "source": alias if alias and not of_volume else "",
        "to": _target(item["to"]) if kind == "redirect" else "",
        "status": int(item.get("status", statuses(kind)[0])),
    }


def _streams(locations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name the unbuffered twin of each location that has one, under ``stream``; return each once.

    A login has none: its limit would not count in another location.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for location in locations:
        if location["kind"] in PROXIED and location["buffering"] and not location["login"]:
            parts = {name: location[name] for name in ("kind", *STREAM_FIELDS)}
            stream = found.setdefault(
                tuple(parts.values()), {"name": f"@stream_{len(found)}", **parts}
            )
            location["stream"] = stream["name"]
    return list(found.values())


def _agains(locations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name the second try of each location that has one, under ``again``; return them, each once.

    A second try keeps to what its location says of the answer: a stream that was buffered there
    would bring nothing, and a long poll would end after nginx's own 75 seconds.
    """
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for location in locations:
        if location["kind"] in PROXIED and location["request_buffering"]:
            parts = {"buffering": False} | {
                name: location[name] for name in AGAIN_FIELDS if name in location
            }
            again = found.setdefault(
                tuple(parts.values()), {"name": f"@again_{len(found)}", **parts}
            )
            location["again"] = again["name"]
    return list(found.values())


def _caches(locations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the values of Cache-Control that services get where they send none, each once."""
    return sorted({item["cache"] for item in locations if item["kind"] in PROXIED} - {""})


def _outermost(folders: Collection[str]) -> list[str]:
    """Return the folders that lie in no other one of them, sorted."""
    return sorted(one for one in folders if not any(_below(one, other) for other in folders))


def _below(path: str, folder: str) -> bool:
    return path != folder and path.startswith(f"{folder}/")


def _cache_control(cache: Any) -> str:
    if cache == "none":
        return ""
    if cache == "immutable":
        return f"public, max-age={YEAR}, immutable"
    return f"public, max-age={int(cache)}" if int(cache) else "no-cache"


def _target(to: str) -> str:
    """Return where a redirect leads, as nginx reads it: the query of the request is kept."""
    return to if "?" in to else f"{to}$is_args$args"


def _networks(networks: Sequence[str]) -> list[str]:
    """Return networks as nginx writes them, each once; it warns of one that stands there twice."""
    return list(dict.fromkeys(str(ipaddress.ip_network(network)) for network in networks))


def _limits(values: Mapping[str, Any], app: Mapping[str, Any]) -> list[Limit]:
    """Return the limits by path; each counts the requests that its pattern matches."""
    limits = [(dict(limit), False) for limit in values.get("stack_rate_limits") or []]
    for item in app.get("locations") or []:
        if "rate_limit" in item:
            limits.append(({**item["rate_limit"], "path": item["path"]}, is_exact(item)))
    unlimited = _unlimited(app)
    found: list[Limit] = []
    for index, (limit, exact) in enumerate(limits):
        methods = list(limit.get("methods") or [])
        found.append(
            {
                "name": f"limit_{index}",
                "source": '"$request_method $uri"' if methods else "$uri",
                "pattern": request_pattern(_pattern(limit["path"], exact), methods),
                "unlimited": request_pattern(unlimited, methods) if unlimited else "",
                "methods": methods,
                "rate": limit["rate"],
                "burst": int(limit.get("burst", DEFAULT_BURST)),
            }
        )
    return found


def _patterns_of_own_limits(app: Mapping[str, Any]) -> list[str]:
    """Return the patterns of single paths with a limit of their own."""
    items = app.get("locations") or []
    own = [item["path"] for item in items if "rate_limit" in item and is_exact(item)]
    return [_pattern(path, exact=True) for path in own]


def _pattern(path: str, exact: bool) -> str:
    """Return a path as nginx's map takes it: a regular expression of decoded paths."""
    return f"~^{re.escape(path)}" + (r"\z" if exact else "")


def _unlimited(app: Mapping[str, Any]) -> str:
    """Return the pattern of the path that health checks and the task ledger ask."""
    health_path = str(mapping(app.get("web")).get("health_path") or "")
    path = unquote(urlsplit(health_path).path)
    return _pattern(path, exact=True) if LOCATION.match(path) else ""
