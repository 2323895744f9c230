"""Judge the call of a playbook: its tags, its inventory and its hosts.

Pure functions. Each returns one message with what is wrong, what there is and what to write, or an
empty text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher

# What Ansible itself understands, whether a task has it or not.
SPECIAL_TAGS = frozenset({"all", "always", "never", "tagged", "untagged"})
# With `--tags never` Ansible would run every special operation at once, a rollback among them; with
# `--skip-tags always` no check at all.
FORBIDDEN = {"--tags": "never", "--skip-tags": "always"}
# Tags of the task that takes the lock: a deploy without one of these stages would have no lock, and
# nothing would undo it.
LOCKED = frozenset({"docker", "images", "release", "database", "rollout", "finish"})
# Playbooks that are looked for as tags of deploy.yml.
TAKEN_FOR_TAGS = frozenset({"backup", "down", "restore", "sbom", "status", "upgrade"})
UNTOUCHED = "No server was contacted."


def sort_by_likeness(name: str, candidates: Iterable[str]) -> list[str]:
    """Return the candidates, the one most like `name` first; ties in alphabetical order."""
    return sorted(candidates, key=lambda candidate: (-_likeness(name, candidate), candidate))


def nearest(name: str, candidates: Iterable[str], least: float = 0.0) -> str:
    """Return the candidate most like `name`; empty when none is like it to `least` (0 to 1)."""
    best = next(iter(sort_by_likeness(name, candidates)), "")
    return best if best and _likeness(name, best) >= least else ""


def _likeness(name: str, candidate: str) -> float:
    return SequenceMatcher(None, candidate, name, autojunk=False).ratio()


def tag_problem(playbook: str, option: str, tags: Collection[str], known: Collection[str]) -> str:
    """Return what is wrong with the tags of one option.

    Args:
        playbook: name of the playbook, for the message.
        option: ``--tags`` or ``--skip-tags``.
        tags: the tags of that option.
        known: the tags of all tasks of the playbook.
    """
    usable = set(known) - SPECIAL_TAGS
    unknown = sorted(set(tags) - usable - SPECIAL_TAGS)
    if FORBIDDEN.get(option) in tags:
        return (
            f"{option} {FORBIDDEN[option]}: that would run every special operation of {playbook} at"
            f" once, or none of its checks. {UNTOUCHED}\nName the tags that you mean."
        )
    if option == "--skip-tags" and usable >= LOCKED and (stages := sorted(LOCKED & set(tags))):
        return (
            f"{option} {','.join(stages)}: that would skip the lock of {playbook} too, and nothing"
            f" would undo a failure. {UNTOUCHED}\nLeave it out: a stage that has nothing to do is"
            " passed over by itself."
        )
    if not unknown:
        return ""
    ordered = sort_by_likeness(unknown[0], usable)
    usage = f"Its tags, nearest first: {', '.join(ordered)}." if ordered else "It has no tags."
    own = "".join(
        f"\n{tag} is a playbook: ansible-playbook playbooks/{tag}.yml"
        for tag in unknown
        if tag in TAKEN_FOR_TAGS
    )
    return f"{option} {','.join(unknown)}: {playbook} has no such tag. {UNTOUCHED}{own}\n{usage}"


def inventory_problem(missing: Collection[str], present: Collection[str]) -> str:
    """Return what is wrong when inventories of the command line are not there.

    Args:
        missing: paths that do not exist.
        present: inventories that do.
    """
    if not missing:
        return ""
    first = next(iter(missing))
    options = " ".join(f"-i {path}" for path in missing)
    there = ", ".join(sort_by_likeness(first, present)) or "none"
    return (
        f"{options}: there is no such file or folder. {UNTOUCHED}\n"
        f"Inventories there are, nearest first: {there}.\n"
        "Give one of them with -i (a list of host names must end with a comma)."
    )


def hosts_problem(
    pattern: str,
    limit: str,
    without_limit: Collection[str],
    groups: Mapping[str, int],
    sources: Collection[str],
) -> str:
    """Return what is wrong when a play has no hosts.

    Args:
        pattern: the hosts of the play.
        limit: ``--limit`` of the command line; empty without one.
        without_limit: hosts that the pattern matches when there is no limit.
        groups: group of the inventory -> number of its hosts.
        sources: the inventories.
    """
    inventory = ", ".join(sources) or "none"
    if without_limit:
        return (
            f"--limit {limit} leaves no host of '{pattern}'. {UNTOUCHED}\n"
            f"Hosts of '{pattern}' in {inventory}: {', '.join(without_limit)}.\n"
            "Give one of them with --limit, or leave --limit out."
        )
    listed = [
        f"{name} ({groups[name]} host{'' if groups[name] == 1 else 's'})"
        for name in sort_by_likeness(pattern, groups)
    ]
    remedy = f"Put the servers into a group '{pattern}'"
    if any(groups.values()):
        remedy += ", or name the group they are in: -e stack_hosts=<group>"
    return (
        f"The inventory {inventory} has no host in '{pattern}'. {UNTOUCHED}\n"
        f"Its groups, nearest first: {', '.join(listed) or 'none'}.\n"
        f"{remedy}, or give another inventory with -i."
    )
