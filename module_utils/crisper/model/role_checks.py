"""Judge variables of single roles that depend on each other, or have a form that no type tells.

Without this a deploy would end at the role, after others have changed the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..backup.variables import variable_findings
from ..deploy.verify import path_problems
from .validators import number

Values = Mapping[str, Any]


def role_problems(values: Values) -> Iterator[str]:
    """Yield what is wrong with the variables of roles other than `stack`, with the remedy.

    Args:
        values: variables by name; those of roles that the run does not have may be missing, and a
            check of which one is missing is left out.
    """
    for names, check in CHECKS:
        if all(name in values for name in names):
            yield from check(values)


def _backup_problems(values: Values) -> Iterator[str]:
    known = {name.removeprefix("backup_"): values[name] for name in BACKUP}
    keep, days = _numeric(known["keep"]), _numeric(known["keep_days"])
    texts = [known[name] for name in known if name not in ("keep", "keep_days")]
    if keep is not None and days is not None and all(isinstance(text, str) for text in texts):
        for sentence in variable_findings({**known, "keep": keep, "keep_days": days}):
            yield f"{sentence}."


def _certificate_problems(values: Values) -> Iterator[str]:
    days, renew = _numeric(values["tls_days"]), _numeric(values["tls_renew_days"])
    made = values["stack_tls"] in ("self_signed", "acme")
    if made and days is not None and renew is not None and renew >= days:
        yield (
            f"tls_renew_days is {renew:g}, but tls_days is {days:g}: every deploy would make the"
            " certificate anew; set fewer days before its end than it has in all."
        )


def _numeric(value: Any) -> float | None:
    """Return a number, also that of a text; None if it is neither."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    return number(value)


def _path_problems(values: Values) -> Iterator[str]:
    if isinstance(values["verify_paths"], (list, tuple)):
        yield from path_problems(values["verify_paths"])


BACKUP = (
    *("backup_keep", "backup_keep_days", "backup_encryption", "backup_recipient"),
    *("backup_remote_tool", "backup_remote_target"),
)
CHECKS: tuple[tuple[tuple[str, ...], Callable[[Values], Iterator[str]]], ...] = (
    (BACKUP, _backup_problems),
    (("stack_tls", "tls_days", "tls_renew_days"), _certificate_problems),
    (("verify_paths",), _path_problems),
)
