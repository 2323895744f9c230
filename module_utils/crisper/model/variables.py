"""Judge which variables an operator has set: their names alone.

Pure functions over the argument specifications of all roles.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..playbook.call import nearest
from .validators import printable

# Names that no role has, but playbooks and defaults of roles refer to, such as the documented
# `-e restore_database=true`.
COMMAND_LINE = frozenset(
    {
        *("backup", "down_delete_data", "foreign", "identity", "recreate_volumes", "release"),
        *("restore_database", "signing_key", "stack_become", "stack_hosts"),
    }
)
# Variables that have another name now; the old one would be passed over without a word.
RENAMED = {
    f"gate_{name}": f"begin_{name}"
    for name in ("break", "enabled", "purpose", "put_back", "quiet_timeout", "registry_timeout")
}
# The fact of every run (docs/CONTRIBUTING.md). From the command line it would replace the fact.
FACT = "deploy"
# Likeness (0 to 1) from which a name is taken for a mistyped one: of names as wholes, and of what
# follows a prefix that both have; of names of the command line, which are short.
LIKE, LIKE_BEHIND = 0.85, 0.5
LIKE_COMMAND_LINE = 0.8


def reserved_prefixes(roles: Collection[str], known: Collection[str]) -> set[str]:
    """Return the beginnings of names that are this repository's: of roles, and of shared names."""
    return {f"{name}_" for name in roles} | {f"{name.partition('_')[0]}_" for name in known}


def name_problems(
    origins: Mapping[str, str],
    known: Collection[str],
    prefixes: Collection[str],
    command_line: Collection[str] = (),
) -> list[str]:
    """Return one sentence for each variable that begins like a role's and that no role knows.

    Also for each that has another name now, for one with the name of the fact `deploy`, and for
    each of the command line that is nearly one of `COMMAND_LINE`.

    Args:
        origins: name of each variable that is set -> where, or an empty text.
        known: names of all variables of all roles.
        prefixes: beginnings of names that are reserved.
        command_line: names of the variables that `-e` sets.
    """
    found = []
    for name in sorted(origins):
        place = f" ({origins[name]})" if origins[name] else ""
        reason = _problem(name, known, prefixes)
        if not reason and name in command_line:
            reason = _command_line_problem(name, known)
        if reason:
            found.append(printable(f"{name}{place}: {reason}"))
    return found


def _problem(name: str, known: Collection[str], prefixes: Collection[str]) -> str:
    """Return why a name is wrong wherever it is set; empty if it is not."""
    prefix = "".join(name.partition("_")[:2])
    if name in RENAMED:
        return f"this variable is {RENAMED[name]} now: rename it."
    if name == FACT:
        return "this is the name of a fact of every run: choose another."
    if prefix not in prefixes or name in known or name in COMMAND_LINE:
        return ""
    meant = _guess(name, prefix, {*known, *COMMAND_LINE})
    guess = f"did you mean {meant}? A variable" if meant else "remove it; a variable"
    return (
        f"no role knows this variable: {guess} of your own needs a name that does not begin with"
        f" {prefix}."
    )


def _command_line_problem(name: str, known: Collection[str]) -> str:
    """Return which documented name of the command line a name is nearly; empty for none."""
    meant = nearest(name, COMMAND_LINE, LIKE_COMMAND_LINE)
    if not meant or name in known or name in COMMAND_LINE:
        return ""
    return (
        f"no role knows this variable: did you mean {meant}? A variable of your own needs a name"
        " that is less like it."
    )


def _guess(name: str, prefix: str, known: Collection[str]) -> str:
    """Return the known name that was probably meant; empty when none is like it."""
    if meant := nearest(name, known, LIKE):
        return meant
    behind = [one.removeprefix(prefix) for one in known if one.startswith(prefix)]
    meant = nearest(name.removeprefix(prefix), behind, LIKE_BEHIND)
    return prefix + meant if meant else ""
