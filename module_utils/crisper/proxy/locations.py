"""Locations of the entry point: their kinds and fields, and what a value of each must be.

Pure functions of ``stack_app``: its short form (``backend_paths``, ``frontend``) and its long form
(``locations``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..model.validators import (
    BODY,
    BOOLEAN,
    FOLDER,
    LOCATION,
    Form,
    choice_remedy,
    quoted,
    whole,
)
from .guard import limit_problems

KINDS = ("backend", "frontend", "static", "redirect", "deny")
PROXIED = ("backend", "frontend")
REDIRECTS, DENIALS = (301, 302, 303, 307, 308), (404, 403)
MAX_TIMEOUT = 7 * 86400
MAX_AGE = 10 * 365 * 86400
# No `$`, quote, space, `;` or brace of nginx; `//host` would lead to another site.
TARGET = re.compile(
    r"(?:https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?)?(?:/(?!/)[A-Za-z0-9._~!&()*+,=:@%/?-]{0,1000})?\Z"
)


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


# --- What stack_app says -----------------------------------------------------------------------


def backend_paths(app: Mapping[str, Any]) -> Any:
    """Return the short form as given, or its default."""
    if "backend_paths" in app:
        return app["backend_paths"]
    locations = [item for item in sequence(app.get("locations")) if isinstance(item, Mapping)]
    root = any(item.get("path") == "/" and item.get("exact") is not True for item in locations)
    backend = any(item.get("kind") == "backend" for item in locations)
    return [] if root or (app.get("frontend") and backend) else ["/"]


def long_form(app: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all locations in the long form."""
    short = [{"path": path, "kind": "backend"} for path in backend_paths(app)]
    frontend = [{"path": "/", "kind": "frontend"}] if app.get("frontend") else []
    return [*short, *(dict(item) for item in app.get("locations") or []), *frontend]


def is_exact(item: Mapping[str, Any]) -> bool:
    """Return whether a location is for its one path only; a login of the backend is by default."""
    login = item.get("kind") == "backend" and is_login(str(item.get("path")))
    return bool(item.get("exact", login))


def is_login(path: str) -> bool:
    """Return whether the path ends as those do that passwords are sent to."""
    return path.endswith(("/login", "/login/"))


def statuses(kind: str) -> tuple[int, ...]:
    """Return the statuses that a redirect or a denial may have, the default first."""
    return REDIRECTS if kind == "redirect" else DENIALS


def sequence(value: Any) -> Sequence[Any]:
    """Return a list as it is, and an empty one for anything else."""
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


# --- Findings ----------------------------------------------------------------------------------


def backend_path_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield what nginx would refuse of the paths that it sends to the backend."""
    where = "stack_app.backend_paths"
    paths = backend_paths(app)
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
            yield f"{where}: {quoted(path)} is listed {count} times: once is enough."
    if app.get("frontend") and "/" in paths:
        yield (
            f"{where} sends '/' to the backend, and so does stack_app.frontend to the front end:"
            " list the backend's paths, such as [/api/, /admin/]."
        )


def location_problems(app: Mapping[str, Any]) -> Iterator[str]:
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
            yield f"{place}.kind is {quoted(kind)}: {choice_remedy(kind, KINDS)}"
        else:
            yield from _kind_problems(place, location, kind, app)


def _kind_problems(
    place: str, location: Mapping[str, Any], kind: str, app: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what is wrong with a location's fields, of a kind that there is."""
    if "exact" in location and not BOOLEAN.matches(location["exact"]):
        yield f"{place}.exact is {quoted(location['exact'])}: {BOOLEAN.remedy}"
    yield from _field_problems(place, location, kind)
    if (needed := REQUIRED.get(kind)) and not location.get(needed):
        yield f"{place}.{needed} is missing: {FIELDS[needed].form.remedy}"
    if kind == "frontend" and not app.get("frontend"):
        yield f"{place}.kind is 'frontend', but stack_app.frontend is not set: choose backend."
    path = location.get("path")
    if kind == "static" and isinstance(path, str):
        yield from _folder_problems(place, path, one_file=location.get("exact") is True)
    if kind == "redirect" and location.get("to") == path:
        yield f"{place}.to is {quoted(path)}, its own path: browsers would go round in circles."
    if "rate_limit" in location:
        yield from _limit_problems(f"{place}.rate_limit", location["rate_limit"], kind)


def _field_problems(place: str, location: Mapping[str, Any], kind: str) -> Iterator[str]:
    """Yield fields that the kind does not have, and values that they do not take."""
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
        elif name == "status" and whole(location[name]) not in statuses(kind):
            yield f"{place}.status is {quoted(location[name])}: {_status_remedy(kind)}"


def _folder_problems(place: str, path: str, one_file: bool) -> Iterator[str]:
    """Yield a path of files whose end says something else than its ``exact``."""
    if one_file and path.endswith("/"):
        yield f"{place}.path is {quoted(path)}: with exact: true it is one file; remove the '/'."
    elif not one_file and not path.endswith("/"):
        yield (
            f"{place}.path is {quoted(path)}: end it with '/' for a folder, or set exact: true"
            " for one file."
        )


def _limit_problems(place: str, limit: Any, kind: str) -> Iterator[str]:
    """Yield what is wrong with a location's own limit of requests."""
    if kind not in (*PROXIED, "static"):
        yield (
            f"{place} is {quoted(limit)}, but its kind is '{kind}': remove it;"
            " nothing is asked there that would need one."
        )
    elif not isinstance(limit, Mapping):
        yield f"{place} is {quoted(limit)}: give a mapping with rate and burst."
    else:
        yield from limit_problems(place, limit)


def _reserved(path: str) -> str:
    if path.startswith("/-/"):
        return "paths below /-/ are the entry point's own; choose another."
    return ""


def _status_remedy(kind: str) -> str:
    return f"choose {', '.join(map(str, sorted(statuses(kind))))}."
