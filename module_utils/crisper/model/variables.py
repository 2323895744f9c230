"""Judge which variables an operator has set: their names alone.

Pure functions over the argument specifications of all roles.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..playbook.call import nearest
from .validators import printable

# Names that no role has, but playbooks and defaults of roles refer to, such as the documented
# `-e restore_database=true`; only those that begin like a role's own need to stand here.
COMMAND_LINE = frozenset({"restore_database", "stack_become", "stack_hosts"})
# Variables that have another name now; the old one would be passed over without a word.
RENAMED = {
    f"gate_{name}": f"begin_{name}"
    for name in ("break", "enabled", "purpose", "put_back", "quiet_timeout", "registry_timeout")
}
# The fact of every run (docs/CONTRIBUTING.md). From the command line it would replace the fact.
FACT = "deploy"
# Likeness (0 to 1) from which a name is taken for a mistyped one: of names as wholes, and of what
# follows a prefix that both have.
LIKE, LIKE_BEHIND = 0.85, 0.5


def reserved_prefixes(roles: Collection[str], known: Collection[str]) -> set[str]:
    """Return the beginnings of names that are this repository's: of roles, and of shared names."""
    return {f"{name}_" for name in roles} | {f"{name.partition('_')[0]}_" for name in known}


def name_problems(
    origins: Mapping[str, str], known: Collection[str], prefixes: Collection[str]
) -> list[str]:
    """Return one sentence for each variable that begins like a role's and that no role knows.

    Also for each that has another name now, and for one with the name of the fact `deploy`.

    Args:
        origins: name of each variable that is set -> where, or an empty text.
        known: names of all variables of all roles.
        prefixes: beginnings of names that are reserved.
    """
    found = []
    for name in sorted(origins):
        prefix = "".join(name.partition("_")[:2])
        place = f" ({origins[name]})" if origins[name] else ""
        if name in RENAMED:
            found.append(
                printable(f"{name}{place}: this variable is {RENAMED[name]} now: rename it.")
            )
            continue
        if name == FACT:
            found.append(
                printable(
                    f"{name}{place}: this is the name of a fact of every run: choose another."
                )
            )
            continue
        if prefix not in prefixes or name in known or name in COMMAND_LINE:
            continue
        meant = _guess(name, prefix, known)
        guess = f"did you mean {meant}? A variable" if meant else "remove it; a variable"
        found.append(
            printable(
                f"{name}{place}: no role knows this variable: {guess} of your own needs a name"
                f" that does not begin with {prefix}."
            )
        )
    return found


def _guess(name: str, prefix: str, known: Collection[str]) -> str:
    """Return the known name that was probably meant; empty when none is like it."""
    if meant := nearest(name, known, LIKE):
        return meant
    behind = [one.removeprefix(prefix) for one in known if one.startswith(prefix)]
    meant = nearest(name.removeprefix(prefix), behind, LIKE_BEHIND)
    return prefix + meant if meant else ""
