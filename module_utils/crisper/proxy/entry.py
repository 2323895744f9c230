"""The entry point as data: what nginx does with a path, a peer's headers, a rate and a log line.

Pure functions. `entry_problems` judges the operator's variables; `entry_model` normalizes those
that were found fit, so that the template of nginx holds loops and plain conditions only.
"""

from __future__ import annotations

import ipaddress
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from ..model.validators import (
    BODY,
    BOOLEAN,
    FOLDER,
    LOCATION,
    Form,
    quoted,
    whole,
)
from ..playbook.call import nearest
from .guard import (
    DEFAULT_BURST,
    Limit,
    guard_model,
    guard_problems,
    limit_problems,
    request_pattern,
)

# The plain listener that no port is published of: health checks and probes of the deploy.
INTERNAL_PORT = 8081
# Where nginx has the volume of stack_app.uploads, and files that came out of the image of the
# release that serves: through the link that is read on each request (proxy.upstream).
UPLOADS, STATIC = "/srv/uploads", "/etc/crisper/serving/static"
KINDS = ("backend", "frontend", "static", "redirect", "deny")
PROXIED = ("backend", "frontend")
LOG_FORMATS = ("text", "json")
REDIRECTS, DENIALS = (301, 302, 303, 307, 308), (404, 403)
# Wider networks than these are no balancer's: whoever is in them may forge client addresses.
# The unique local addresses of IPv6 are a /7.
WIDEST = 7
MAX_TIMEOUT = 7 * 86400
MAX_AGE = 10 * 365 * 86400
YEAR = 365 * 86400
# No `$`, quote, space, `;` or brace of nginx; `//host` would lead to another site.
TARGET = re.compile(
    r"(?:https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?)?(?:/(?!/)[A-Za-z0-9._~!&()*+,=:@%/?-]{0,1000})?\Z"
)
LIKE = 0.5


class Field(NamedTuple):
    """A key of a location: the kinds that have it, and what its value must be."""

    kinds: tuple[str, ...]
    form: Form


def _within(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: (number := whole(value)) is not None and low <= number <= high


def _is_path(value: Any) -> bool:
    # nginx compares paths without dot segments, and with one slash for several.
    plain = isinstance(value, str) and bool(LOCATION.match(value)) and "//" not in value
    return plain and not {".", ".."} & set(value.split("/"))


def _is_target(value: Any) -> bool:
    return isinstance(value, str) and value != "" and bool(TARGET.match(value))


TIMEOUT = Form(
    _within(1, MAX_TIMEOUT), f"give a whole number of seconds from 1 to {MAX_TIMEOUT} (a week)."
)
CACHE = Form(
    lambda value: value in ("immutable", "none") or _within(0, MAX_AGE)(value),
    f"choose immutable (files with a hash in their names), none, or seconds from 0 to {MAX_AGE}.",
)
PATH = Form(
    _is_path,
    "give a path that begins with '/', of letters, digits and -._~!&()*+,=:@, without '.', '..' and"
    " '//'"
    " (nginx compares decoded paths from their beginning).",
)
TO = Form(
    _is_target,
    "give a path such as /new/ or a URL such as https://www.example.com/new, of the characters"
    " that URLs have, without '$'.",
)
ALIAS = Form(
    FOLDER.matches,
    "give an absolute path of plain characters in the application's containers, such as"
    " /app/staticfiles.",
)
FIELDS: dict[str, Field] = {
    "body_size": Field(PROXIED, BODY),
    "timeout": Field(PROXIED, TIMEOUT),
    "buffering": Field(PROXIED, BOOLEAN),
    "request_buffering": Field(PROXIED, BOOLEAN),
    "cache": Field((*PROXIED, "static"), CACHE),
    "alias": Field(("static",), ALIAS),
    "to": Field(("redirect",), TO),
    "status": Field(("redirect", "deny"), Form(lambda value: whole(value) is not None, "")),
}
REQUIRED = {"static": "alias", "redirect": "to"}


# --- Findings ----------------------------------------------------------------------------------


def entry_problems(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the entry point's variables, one sentence each, with the remedy."""
    app = _mapping(values.get("stack_app"))
    return [
        *_proxy_problems(values),
        *_path_problems(app),
        *_location_problems(app),
        *_duplicate_problems(app),
        *_destination_problems(app),
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
        yield f"stack_access_log is {quoted(log)}: {_choice(log, LOG_FORMATS)}"


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
    if network.prefixlen < WIDEST:
        return (
            "from so many addresses anybody could forge who the client is: name the networks of"
            f" your balancer only, none wider than /{WIDEST}."
        )
    return "" if exact else f"it has bits behind its prefix; did you mean {network}?"


def _path_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield what nginx would refuse of the paths that it sends to the backend."""
    where = "stack_app.backend_paths"
    paths = _backend_paths(app)
    sure = bool(app.get("locations"))
    texts = isinstance(paths, (str, bytes))
    if texts or not isinstance(paths, Sequence) or not (paths or sure):
        yield f"{where} is {quoted(paths)}: give a list of paths, such as [/api/, /admin/]."
        return
    for index, path in enumerate(paths):
        if not isinstance(path, str) or not LOCATION.match(path):
            yield (
                f"{where}[{index}] is {quoted(path)}: give a path that begins with '/', of letters,"
                " digits and -._~!&()*+,=:@ (nginx compares decoded paths from their beginning)."
            )
        elif reserved := _reserved(path):
            yield f"{where}[{index}] is {quoted(path)}: {reserved}"
    for path, count in Counter(path for path in paths if isinstance(path, str)).items():
        if count > 1:
            yield f"{where}: {quoted(path)} stands there {count} times: once is enough."
    if app.get("frontend") and "/" in paths:
        yield (
            f"{where} sends '/' to the backend, and so does stack_app.frontend to the front end:"
            " list the backend's paths, such as [/api/, /admin/]."
        )


def _backend_paths(app: Mapping[str, Any]) -> Any:
    """Return the short form as given, or its default."""
    if "backend_paths" in app:
        return app["backend_paths"]
    locations = [item for item in _sequence(app.get("locations")) if isinstance(item, Mapping)]
    root = any(item.get("path") == "/" and item.get("exact") is not True for item in locations)
    backend = any(item.get("kind") == "backend" for item in locations)
    return [] if root or (app.get("frontend") and backend) else ["/"]


def _reserved(path: str) -> str:
    if path.startswith("/-/"):
        return "paths below /-/ are the entry point's own; choose another."
    return ""


def _location_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with each location by itself."""
    where = "stack_app.locations"
    locations = app.get("locations", [])
    if isinstance(locations, str) or not isinstance(locations, Sequence):
        yield f"{where} is {quoted(locations)}: give a list of mappings with path and kind."
        return
    for index, location in enumerate(locations):
        place = f"{where}[{index}]"
        if not isinstance(location, Mapping):
            yield f"{place} is {quoted(location)}: give a mapping with path and kind."
            continue
        path, kind = location.get("path"), location.get("kind")
        if not PATH.matches(path):
            yield f"{place}.path is {quoted(path)}: {PATH.remedy}"
        elif reserved := _reserved(str(path)):
            yield f"{place}.path is {quoted(path)}: {reserved}"
        if not isinstance(kind, str) or kind not in KINDS:
            yield f"{place}.kind is {quoted(kind)}: {_choice(kind, KINDS)}"
        else:
            yield from _kind_problems(place, location, kind, app)


def _kind_problems(
    place: str, location: Mapping[str, Any], kind: str, app: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with a location's fields, of a kind that there is."""
    if "exact" in location and not BOOLEAN.matches(location["exact"]):
        yield f"{place}.exact is {quoted(location['exact'])}: {BOOLEAN.remedy}"
    for name, field in FIELDS.items():
        if name not in location:
            continue
        if kind not in field.kinds:
            yield (
                f"{place}.{name} is {quoted(location[name])}, but its kind is '{kind}': remove it;"
                f" {name} is for {', '.join(field.kinds)}."
            )
        elif not field.form.matches(location[name]):
            remedy = field.form.remedy or _status_remedy(kind)
            yield f"{place}.{name} is {quoted(location[name])}: {remedy}"
        elif name == "status" and whole(location[name]) not in _statuses(kind):
            yield f"{place}.status is {quoted(location[name])}: {_status_remedy(kind)}"
    if (needed := REQUIRED.get(kind)) and not location.get(needed):
        yield f"{place}.{needed} is missing: {FIELDS[needed].form.remedy}"
    if kind == "frontend" and not app.get("frontend"):
        yield f"{place}.kind is 'frontend', but stack_app.frontend is not set: choose backend."
    path = location.get("path")
    if kind == "static" and isinstance(path, str):
        one_file = location.get("exact") is True
        if one_file and path.endswith("/"):
            yield (
                f"{place}.path is {quoted(path)}: with exact: true it is one file; remove the '/'."
            )
        elif not one_file and not path.endswith("/"):
            yield (
                f"{place}.path is {quoted(path)}: end it with '/' for a folder, or set exact: true"
                " for one file."
            )
    if kind == "redirect" and location.get("to") == path:
        yield f"{place}.to is {quoted(path)}, its own path: browsers would go round in circles."
    if "rate_limit" in location:
        limit = location["rate_limit"]
        if kind not in (*PROXIED, "static"):
            yield (
                f"{place}.rate_limit is {quoted(limit)}, but its kind is '{kind}': remove it;"
                " nothing is asked there that would need one."
            )
        elif not isinstance(limit, Mapping):
            yield f"{place}.rate_limit is {quoted(limit)}: give a mapping with rate and burst."
        else:
            yield from limit_problems(f"{place}.rate_limit", limit)


def _duplicate_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield paths that stand there twice, which nginx refuses."""
    taken: dict[tuple[str, bool], str] = {}
    for index, path in enumerate(_sequence(_backend_paths(app))):
        if isinstance(path, str):
            taken[(path, _is_login(path))] = f"stack_app.backend_paths[{index}]"
    if app.get("frontend"):
        taken.setdefault(("/", False), "stack_app.frontend")
    for index, location in enumerate(_sequence(app.get("locations"))):
        path = _mapping(location).get("path")
        if not isinstance(path, str):
            continue
        place = f"stack_app.locations[{index}]"
        key = (path, _is_exact(location))
        if key in taken:
            yield (
                f"{place}.path is {quoted(path)}, and so is that of {taken[key]}: each path stands"
                f" once; remove one of them{_instead(taken[key])}."
            )
        else:
            taken[key] = place


def _destination_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield redirects that lead round in circles, and a health path that no service answers."""
    locations = [
        (f"stack_app.locations[{index}]", item)
        for index, item in enumerate(_sequence(app.get("locations")))
        if isinstance(item, Mapping) and PATH.matches(item.get("path"))
    ]
    short = [p for p in _sequence(_backend_paths(app)) if isinstance(p, str)]
    locations += [("stack_app.backend_paths", {"path": path, "kind": "backend"}) for path in short]
    for place, item in locations:
        chain, path = [item.get("path")], item.get("to")
        if item.get("kind") != "redirect" or path == item.get("path"):
            continue
        while isinstance(path, str) and path.startswith("/"):
            _, target = _match(locations, path.partition("?")[0])
            if target.get("kind") != "redirect":
                break
            if target is item:
                yield (
                    f"{place}.to is {quoted(item['to'])}, which leads back to {item['path']}:"
                    " browsers would go round in circles. Choose another, or set exact: true."
                )
            if target.get("path") in chain:
                break
            chain.append(target.get("path"))
            path = target.get("to")
    health = _mapping(app.get("web")).get("health_path")
    if isinstance(health, str) and health.startswith("/"):
        place, target = _match(locations, unquote(health.partition("?")[0]))
        remedy = (
            f"stack_app.web.health_path is {quoted(health)}: a deploy asks nginx for it, and would"
            " fail. Give the health path a location of kind backend, with exact: true."
        )
        # A front end takes all other paths, and those of single-page applications answer them.
        if not target and not app.get("frontend"):
            yield f"No path of stack_app.locations or backend_paths is met, but {remedy}"
        elif target and target.get("kind") in ("deny", "redirect", "static"):
            path, kind = quoted(target["path"]), target["kind"]
            yield f"{place}.path is {path} of kind '{kind}', but {remedy}"


def _match(
    locations: Sequence[tuple[str, Mapping[str, Any]]], path: str
) -> tuple[str, Mapping[str, Any]]:
    """Return place and location that nginx takes for a path; an empty one for none."""
    for place, item in locations:
        if _is_exact(item) and item["path"] == path:
            return place, item
    begun = [one for one in locations if not _is_exact(one[1]) and path.startswith(one[1]["path"])]
    return max(begun, key=lambda one: len(one[1]["path"]), default=("", {}))


def _instead(place: str) -> str:
    if place == "stack_app.frontend":
        return " (the front end has '/'; give this location a longer path)"
    return ""


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
    paths = Counter(str(_mapping(limit).get("path")) for limit in limits)
    for path, count in paths.items():
        if count > 1:
            yield f"{where}: {quoted(path)} stands there {count} times: give each path one limit."


def _statuses(kind: str) -> tuple[int, ...]:
    return REDIRECTS if kind == "redirect" else DENIALS


def _status_remedy(kind: str) -> str:
    return f"choose {', '.join(map(str, sorted(_statuses(kind))))}."


def _choice(value: Any, choices: Sequence[str]) -> str:
    meant = nearest(value, choices, LIKE) if isinstance(value, str) else ""
    return (f"did you mean {meant}? " if meant else "") + f"choose {', '.join(choices)}."


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
    app = _mapping(values.get("stack_app"))
    limits = _limits(values, app)
    long_form = app.get("locations") or []
    own = [item["path"] for item in long_form if "rate_limit" in item and _is_exact(item)]
    locations = [_location(item, app) for item in _given_locations(app)]
    streams: dict[tuple[Any, ...], dict[str, Any]] = {}
    for location in locations:
        if location["kind"] in PROXIED and location["buffering"] and not location["login"]:
            parts = {name: location[name] for name in ("kind", *STREAM_FIELDS)}
            stream = streams.setdefault(
                tuple(parts.values()), {"name": f"@stream_{len(streams)}", **parts}
            )
            location["stream"] = stream["name"]
    agains = _agains([*locations, *streams.values()])
    static = {item["source"] for item in locations if item["source"]}
    return {
        "trusted": _networks(values.get("stack_trusted_proxies") or []),
        "proxy_protocol": values.get("stack_proxy_protocol") is True,
        "access_log": str(values.get("stack_access_log", "text")),
        "locations": locations,
        "streams": list(streams.values()),
        "agains": agains,
        "caches": _caches(locations),
        "limits": limits,
        "unlimited": _unlimited(app),
        "uploads": any(item["uploads"] for item in locations),
        "static": sorted(one for one in static if not any(_below(one, other) for other in static)),
        "internal_port": INTERNAL_PORT,
        **guard_model(
            values,
            limits,
            [location["path"] for location in locations if location["login"]],
            [_pattern(path, exact=True) for path in own],
        ),
    }


STREAM_FIELDS = ("body_size", "timeout", "request_buffering", "cache")
AGAIN_FIELDS = ("buffering", "timeout", "cache")


def _given_locations(app: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all locations in the long form."""
    short = [{"path": path, "kind": "backend"} for path in _backend_paths(app)]
    front = [{"path": "/", "kind": "frontend"}] if app.get("frontend") else []
    return [*short, *(dict(item) for item in app.get("locations") or []), *front]


def _location(item: Mapping[str, Any], app: Mapping[str, Any]) -> dict[str, Any]:
    kind, path = item["kind"], item["path"]
    alias = posixpath.normpath(item["alias"]) if kind == "static" else ""
    uploads = posixpath.normpath(app["uploads"]) if app.get("uploads") else ""
    of_volume = bool(alias and uploads) and (alias == uploads or _below(alias, uploads))
    inside = UPLOADS + alias[len(uploads) :] if of_volume else STATIC + alias
    exact = _is_exact(item)
    return {
        "kind": kind,
        "path": path,
        "match": f"= {path}" if exact else path,
        # With a limit of its own the built-in one does not count.
        "login": kind == "backend" and _is_login(path) and "rate_limit" not in item,
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
        "status": int(item.get("status", _statuses(kind)[0])),
    }


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


def _is_exact(item: Mapping[str, Any]) -> bool:
    login = item.get("kind") == "backend" and _is_login(str(item.get("path")))
    return bool(item.get("exact", login))


def _is_login(path: str) -> bool:
    return path.endswith(("/login", "/login/"))


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
            limits.append(({**item["rate_limit"], "path": item["path"]}, _is_exact(item)))
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


def _pattern(path: str, exact: bool) -> str:
    """Return a path as nginx's map takes it: a regular expression of decoded paths."""
    return f"~^{re.escape(path)}" + (r"\z" if exact else "")


def _unlimited(app: Mapping[str, Any]) -> str:
    """Return the pattern of the path that health checks and the task ledger ask."""
    health_path = str(_mapping(app.get("web")).get("health_path") or "")
    path = unquote(urlsplit(health_path).path)
    return _pattern(path, exact=True) if LOCATION.match(path) else ""


def _sequence(value: Any) -> Sequence[Any]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
