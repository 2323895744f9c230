"""Ansible's own debug messages without secrets; runs on the controller alone."""

from __future__ import annotations

import re
from typing import Any

# Beginnings of messages that quote what a host printed, what it was sent, or a module's options.
# As Ansible 2.17 to 2.19 word them; `LONGEST` is for those that it words otherwise one day.
QUOTING = re.compile(
    r"_low_level_execute_command\(\) done: rc=-?\d+"
    r"|_low_level_execute_command\(\): executing: "
    r"|done with _execute_module \([\w.]+"
    r"|(?:stdout|stderr) chunk \(state=\d+\):"
    r"|raw interpreter discovery output: "
    r"|become_\w+: \(source=\w+, state=\w+\): "
)
# No other message of Ansible is longer; one that is quotes something.
LONGEST = 400


def without_secrets(message: str) -> str:
    """Return a debug message without what it quotes of others."""
    quoting = QUOTING.match(message)
    if quoting is None:
        if len(message) <= LONGEST:
            return message
        head = message[:40].partition("\n")[0]
    else:
        head = quoting.group(0).rstrip()
    return f"{head} … ({len(message) - len(head)} characters are not shown: they may hold secrets)"


def install(display: type) -> None:
    """Have that class of Ansible's print its debug messages without secrets."""
    original: Any = display.debug  # type: ignore[attr-defined]
    if getattr(original, "without_secrets", False):
        return

    def debug(self: Any, msg: str, *arguments: Any, **options: Any) -> Any:
        # Once more in the parent of a worker, which finds nothing then.
        return original(self, without_secrets(str(msg)), *arguments, **options)

    debug.without_secrets = True  # type: ignore[attr-defined]
    display.debug = debug  # type: ignore[attr-defined]
