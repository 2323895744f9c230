"""Comparison of a PostgreSQL with a new cluster of the same image. Python 3.9+."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from ..text import printable
from .catalog import Catalog
from .measure import Measure, access, roles_of


def differences(found: Measure, wanted: Measure, parts: Iterable[str]) -> dict[str, list[str]]:
    """Return what is other than in a new cluster: ``{what: [object]}``.

    Args:
        parts: those that are compared.
    """
    names: dict[str, list[str]] = {"changed": [], "added": [], "missing": [], "open": []}
    for each in parts:
        here, there = found.rows.get(each, {}), wanted.rows.get(each, {})
        suffix = "" if each == "builtin" else f" of {each}"
        for name in sorted(set(here) | set(there)):
            if Counter(here.get(name, ())) == Counter(there.get(name, ())):
                continue
            what = "added" if name not in there else "missing" if name not in here else "changed"
            names[what].append(f"{name}{suffix}")
        for name, has in sorted(found.rights.get(each, {}).items()):
            more = set(has) - set(wanted.rights.get(each, {}).get(name, ()))
            if more and name in there:
                names["open"].append(f"{name}{suffix} ({', '.join(sorted(more))})")
    return names


def compared(
    catalog: Catalog, found: Measure, wanted: Measure, unknown: Iterable[str] = ()
) -> list[str]:
    """Return what of a database is other than in a new cluster, a sentence each.

    Args:
        unknown: extensions that a new cluster does not get.
    """
    parts = ["builtin", *(f"extension {name}" for name, *_ in catalog.extensions())]
    parts = [each for each in parts if each.removeprefix("extension ") not in set(unknown)]
    where = f"in the database {printable(catalog.database)}"
    words = {
        "changed": "is not as a new cluster of the same image has it",
        "added": "is not in a new cluster of the same image",
        "missing": "is in a new cluster of the same image and not here",
        "open": "is open to more than in a new cluster of the same image",
    }
    names = differences(found, wanted, parts)
    return [
        f"the {printable(name)} {where} {words[what]}" for what in words for name in names[what]
    ]


def of_files(catalog: Catalog, hba: Iterable[str], roles: Iterable[str]) -> list[str]:
    """Return lines of pg_hba.conf and powers of built-in roles that a new cluster has not.

    Args:
        hba: what :func:`access` returns of a new cluster.
        roles: what :func:`roles_of` returns of a new cluster.
    """
    found = []
    for line in sorted(set(access(catalog)) - set(hba)):
        found.append(
            "pg_hba.conf or pg_ident.conf has a line that a new cluster has not:"
            f" {printable(line)}. If it is not yours, remove it, then SELECT pg_reload_conf()"
        )
    for each in sorted(set(roles_of(catalog)) - set(roles)):
        found.append(
            f"a role of PostgreSQL's own has more than in a new cluster: {printable(each)}"
        )
    return found
