"""What PostgreSQL's superuser is asked to do, and how the answers are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ansible.module_utils
import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))
from ansible.module_utils import crisper_backup_data as data  # noqa: E402
from ansible.module_utils.crisper_backup import BackupError  # noqa: E402
from ansible.module_utils.crisper_database_roles import MOST, State, find_dangers  # noqa: E402

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


@given(st.dictionaries(st.tuples(NAMES, NAMES), st.integers(0, 2**62), max_size=8))
def test_each_table_has_a_count_of_its_own(tables: dict[tuple[str, str], int]) -> None:
    """Whatever names hold: ends of lines, dots, quotes."""
    lines = [
        json.dumps({"schema": schema, "table": table, "rows": rows})
        for (schema, table), rows in tables.items()
    ]
    told = data.count_names(lines)
    assert sorted(told.values()) == sorted(tables.values())
    for (schema, table), rows in tables.items():
        quoted = ".".join('"' + word.replace('"', '""') + '"' for word in (schema, table))
        assert rows in (told.get(f"{schema}.{table}"), told.get(quoted))


@pytest.mark.parametrize("line", ["", "public.items|7", "[]", '{"schema": 1}', "{"])
def test_an_answer_that_is_no_count_is_an_error_of_the_backup(line: str) -> None:
    with pytest.raises(BackupError, match="count of rows cannot be read"):
        data.count_names([line])


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
    }
    for script in (data.ASK_POSTGRES, data.DUMP_POSTGRES, data.RESTORE_POSTGRES):
        assert script.startswith(data.FIND_SUPERUSER)
    assert data.FIND_SUPERUSER.index("search_path=pg_catalog") < data.FIND_SUPERUSER.index("psql")
    assert '--username "$POSTGRES_DB"' in data.ASK_APPLICATION
    assert "superuser" not in data.ASK_APPLICATION


def test_dangers_are_lines_with_a_remedy_and_not_many() -> None:
    state = State(
        "shop",
        "postgres",
        powerful=[(f"evil\x1b[2J\n{number}", "SUPERUSER") for number in range(MOST + 3)],
        event_triggers=["watch"],
        untrusted=["public.raw(integer)"],
        system=[("archive_command", "id\n")],
        settings=[("", "role=shop"), ("postgres", "local_preload_libraries=x")],
    )
    told = find_dangers(state)
    assert len(told) == MOST + 6
    assert all(line.isprintable() for line in told)
    assert told[-1] == "and 3 more of these"
    assert any(line.endswith('DROP EVENT TRIGGER "watch"') for line in told)
    assert any(
        'ALTER DATABASE "shop" RESET role (or ALTER ROLE ALL RESET role)' in line for line in told
    )
    assert any(
        'ALTER ROLE "postgres" IN DATABASE "shop" RESET local_preload_libraries' in line
        for line in told
    )
    assert find_dangers(State("shop", "postgres")) == []
