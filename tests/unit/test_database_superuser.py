"""What PostgreSQL's superuser is asked to do, and how the answers are read."""

from __future__ import annotations

import re
from pathlib import Path

import ansible.module_utils
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
from ansible.module_utils import crisper_backup_data as data  # noqa: E402
from ansible.module_utils.crisper_database_roles import MOST, State, of_roles, shorten  # noqa: E402

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


@given(st.dictionaries(st.tuples(NAMES, NAMES), st.integers(0, 2**62), max_size=8))
def test_each_table_has_a_count_of_its_own(tables: dict[tuple[str, str], int]) -> None:
    """Whatever names hold: ends of lines, dots, quotes."""
    told = data.count_names(tables.items())
    assert sorted(told.values()) == sorted(tables.values())
    for (schema, table), rows in tables.items():
        quoted = ".".join('"' + word.replace('"', '""') + '"' for word in (schema, table))
        assert rows in (told.get(f"{schema}.{table}"), told.get(quoted))


def test_every_superuser_session_is_pinned() -> None:
    """A new script takes FIND_SUPERUSER, or ASK_APPLICATION; these are all there are."""
    scripts = {
        str(path.relative_to(ROOT)): len(re.findall(r"\b(?:psql|pg_dump) --", path.read_text()))
        for folder in ("module_utils", "library", "plugins", "roles", "playbooks", "templates")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name: count for name, count in scripts.items() if count} == {
        "module_utils/crisper_backup_data.py": 4,
        "module_utils/crisper_database_roles.py": 1,
        "module_utils/crisper_postgres_catalog.py": 1,
        "module_utils/crisper_postgres_fresh.py": 1,  # in a new cluster
    }
    for script in (data.ASK_POSTGRES, data.DUMP_POSTGRES, data.RESTORE_POSTGRES):
        assert script.startswith(data.FIND_SUPERUSER)
    assert data.FIND_SUPERUSER.index("search_path=pg_catalog") < data.FIND_SUPERUSER.index("psql")
    assert '--username "$POSTGRES_DB"' in data.ASK_APPLICATION
    assert "superuser" not in data.ASK_APPLICATION


def test_dangers_are_lines_and_not_many() -> None:
    roles = [(f"evil\x1b[2J\n{number}", "SUPERUSER") for number in range(MOST + 3)]
    told = shorten([of_roles(State("shop", "postgres", powerful=roles)), ["another"]])
    assert len(told) == MOST + 3
    assert all(line.isprintable() for line in told)
    assert told[MOST:-1] == ["another", "and 3 more of these"]
    assert "-e database_rebuild=true" in told[-1]
    assert shorten([[], []]) == []
