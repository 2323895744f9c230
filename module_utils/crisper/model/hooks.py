"""Commands of the application at points of a deploy: rollout_hooks (no I/O)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

from .validators import SECONDS, as_mapping, command_problem, quoted

HOOK_POINTS = (
    "before_migrate",
    "after_migrate",
    "before_start",
    "before_switch",
    "after_switch",
    "after_rollback",
)


# Their commands run with the migration (stack_app.migrate).
MIGRATION_POINTS = ("before_migrate", "after_migrate")


class Hook(TypedDict):
    """A command of rollout_hooks; ``timeout`` in seconds."""

    name: str
    command: list[str]
    timeout: int


def hooks_by_point(values: Mapping[str, Any]) -> dict[str, list[Hook]]:
    """Return the commands of checked variables, by the point at which they run."""
    return {
        str(point): [
            {
                "name": str(hook.get("name") or " ".join(map(str, hook["command"]))),
                "command": [str(word) for word in hook["command"]],
                "timeout": int(hook.get("timeout", 600)),
            }
            for hook in commands
        ]
        for point, commands in (values.get("rollout_hooks") or {}).items()
    }


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with rollout_hooks, with the remedy."""
    hooks = values.get("rollout_hooks") or {}
    if not isinstance(hooks, Mapping):
        yield f"rollout_hooks is {quoted(hooks)}: give a mapping of points to lists of commands."
        return
    app = as_mapping(values.get("stack_app"))
    for point, commands in hooks.items():
        if point not in HOOK_POINTS:
            yield f"rollout_hooks.{point}: there is no such point; choose {', '.join(HOOK_POINTS)}."
            continue
        if point in MIGRATION_POINTS and commands and not app.get("migrate"):
            yield (
                f"rollout_hooks.{point} never runs: stack_app.migrate is not set. Use before_start,"
                " or describe the migration."
            )
        if not isinstance(commands, Sequence) or isinstance(commands, str):
            yield f"rollout_hooks.{point} is {quoted(commands)}: give a list of commands."
            continue
        for index, hook in enumerate(commands):
            where = f"rollout_hooks.{point}[{index}]"
            if problem := command_problem(f"{where}.command", as_mapping(hook).get("command")):
                yield problem
            timeout = as_mapping(hook).get("timeout", 600)
            if not SECONDS.matches(timeout):
                yield f"{where}.timeout is {quoted(timeout)}: {SECONDS.remedy}"
