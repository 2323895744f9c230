"""Rights on the objects of a PostgreSQL, as its catalogs have them. Python 3.9+."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .catalog import parse_array

# What everybody may where nobody has said anything.
_PUBLIC = {"pg_database": {"=T", "=c"}, "pg_proc": {"=X"}, "pg_type": {"=U"}, "pg_language": {"=U"}}
_ACL_ITEM = re.compile(r'("(?:[^"]|"")*"|[^=]*)=([A-Za-z*]*)/', re.DOTALL)


@dataclass(frozen=True)
class Grant:
    """Rights that somebody has on an object; `*` behind a letter: he may pass it on."""

    grantee: str  # empty for PUBLIC
    letters: str


def grants(acl: str | None, table: str = "") -> list[Grant]:
    """Return the rights that an object's ACL gives, by grantee.

    Args:
        acl: as PostgreSQL writes it; None where nobody has said anything.
        table: the object's catalog, for what everybody may then.
    """
    if acl is None:
        return [Grant("", "".join(right.lstrip("=") for right in sorted(_PUBLIC.get(table, ()))))]
    found = []
    for item in parse_array(acl):
        if match := _ACL_ITEM.match(item):
            name = match[1]
            plain = name[1:-1].replace('""', '"') if name.startswith('"') else name
            found.append(Grant(plain, match[2]))
    return found


def rights(table: str, acl: str | None, superusers: Iterable[str]) -> set[str]:
    """Return ``grantee=letter`` for each right that somebody but a superuser has."""
    if acl is None:
        return set(_PUBLIC.get(table, ()))
    return {
        f"{each.grantee}={letter}"
        for each in grants(acl)
        if each.grantee not in superusers
        for letter in each.letters.replace("*", "")
    }
