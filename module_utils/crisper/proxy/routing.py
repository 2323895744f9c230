"""Paths of the entry point: the location that nginx takes for each, and where it leads.

Pure functions of ``stack_app``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from ..model.validators import quoted
from .locations import PATH, backend_paths, is_exact, is_login, mapping, sequence

# How a location is called in messages, and the location.
Place = tuple[str, Mapping[str, Any]]


def _match(locations: Sequence[Place], path: str) -> Place:
    """Return place and location that nginx takes for a path; an empty one for none."""
    for place, item in locations:
        if is_exact(item) and item["path"] == path:
            return place, item
    begun = [one for one in locations if not is_exact(one[1]) and path.startswith(one[1]["path"])]
    return max(begun, key=lambda one: len(one[1]["path"]), default=("", {}))


def duplicate_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield paths that stand there twice, which nginx refuses."""
    taken: dict[tuple[str, bool], str] = {}
    for index, path in enumerate(sequence(backend_paths(app))):
        if isinstance(path, str):
            taken[(path, is_login(path))] = f"stack_app.backend_paths[{index}]"
    if app.get("frontend"):
        taken.setdefault(("/", False), "stack_app.frontend")
    for index, location in enumerate(sequence(app.get("locations"))):
        path = mapping(location).get("path")
        if not isinstance(path, str):
            continue
        place = f"stack_app.locations[{index}]"
        key = (path, is_exact(location))
        if key in taken:
            yield (
                f"{place}.path is {quoted(path)}, and so is that of {taken[key]}: each path stands"
                f" once; remove one of them{_instead(taken[key])}."
            )
        else:
            taken[key] = place


def _instead(place: str) -> str:
    if place == "stack_app.frontend":
        return " (the front end has '/'; give this location a longer path)"
    return ""


def destination_problems(app: Mapping[str, Any]) -> Iterator[str]:
    """Yield redirects that lead round in circles, and a health path that no service answers."""
    locations: list[Place] = [
        (f"stack_app.locations[{index}]", item)
        for index, item in enumerate(sequence(app.get("locations")))
        if isinstance(item, Mapping) and PATH.matches(item.get("path"))
    ]
    short = [p for p in sequence(backend_paths(app)) if isinstance(p, str)]
    locations += [("stack_app.backend_paths", {"path": path, "kind": "backend"}) for path in short]
    yield from _circles(locations)
    health = mapping(app.get("web")).get("health_path")
    if isinstance(health, str) and health.startswith("/"):
        yield from _health_problems(health, locations, bool(app.get("frontend")))


def _circles(locations: Sequence[Place]) -> Iterator[str]:
    """Yield the redirects that lead back to themselves over others."""
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


def _health_problems(health: str, locations: Sequence[Place], front_end: bool) -> Iterator[str]:
    """Yield why no service would answer the health path."""
    place, target = _match(locations, unquote(health.partition("?")[0]))
    remedy = (
        f"stack_app.web.health_path is {quoted(health)}: a deploy asks nginx for it, and would"
        " fail. Give the health path a location of kind backend, with exact: true."
    )
    # A front end takes all other paths, and those of single-page applications answer them.
    if not target and not front_end:
        yield f"No path of stack_app.locations or backend_paths is met, but {remedy}"
    elif target and target.get("kind") in ("deny", "redirect", "static"):
        path, kind = quoted(target["path"]), target["kind"]
        yield f"{place}.path is {path} of kind '{kind}', but {remedy}"
