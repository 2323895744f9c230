"""The application as its operator describes it: stack_app (no I/O)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .validators import as_mapping, command_problem, quoted

REQUIRED = {"web": ("command", "port", "health_path"), "celery": ("app",)}
OPTIONAL = {"frontend": ("port", "health_path"), "migrate": ("command",)}


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with stack_app, with the remedy; its values have rooms of their own."""
    app = values.get("stack_app")
    if not isinstance(app, Mapping) or not app:
        yield "stack_app is not set: describe the application (docs/DEPLOYMENT.md)."
        return
    yield from _section_problems(app)
    yield from _image_problems("stack_app", app)
    if app.get("frontend"):
        yield from _image_problems("stack_app.frontend", as_mapping(app["frontend"]))
    for part, key in (("web", "command"), ("migrate", "command"), ("migrate", "check_command")):
        command = as_mapping(app.get(part)).get(key)
        if command and (problem := command_problem(f"stack_app.{part}.{key}", command)):
            yield problem
    tasks = as_mapping(app.get("celery")).get("expected_tasks") or []
    if not isinstance(tasks, (list, tuple)) or not all(isinstance(task, str) for task in tasks):
        yield f"stack_app.celery.expected_tasks is {quoted(tasks)}: give a list of task names."


def _section_problems(app: Mapping[str, Any]) -> Iterator[str]:
    for part, keys in {**REQUIRED, **{p: OPTIONAL[p] for p in OPTIONAL if p in app}}.items():
        section = app.get(part)
        if not isinstance(section, Mapping) or not section:
            how = "is missing: it needs" if part in REQUIRED else "is empty: leave it out, or give"
            yield f"stack_app.{part} {how} {', '.join(keys)}."
            continue
        for key in keys:
            if not section.get(key):
                yield f"stack_app.{part}.{key} is missing (docs/DEPLOYMENT.md shows an example)."
    for part in ("build", "environment", "environment_templates", "secret_environment"):
        if part in app and not isinstance(app[part], Mapping):
            yield f"stack_app.{part} is no mapping: give one of names to values, or leave it out."


def _image_problems(where: str, section: Mapping[str, Any]) -> Iterator[str]:
    build = as_mapping(section.get("build"))
    if not section.get("image") and not build.get("context"):
        yield f"{where} has neither image nor build.context: set one of them."
    for key in ("context", "dockerfile"):
        if not isinstance(build.get(key, ""), str):
            yield f"{where}.build.{key} is {quoted(build[key])}: give a path."
