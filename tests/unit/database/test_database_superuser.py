"""What PostgreSQL's superuser is asked to do, and how the answers are read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (  # noqa: E402
    postgres_extensions,
    postgres_rows,
    postgres_sql,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.database import roles_sql  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.database.dangers import (  # noqa: E402
    MOST,
    of_roles,
    shorten,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.role_state import State  # noqa: E402

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1)


@given(st.dictionaries(st.tuples(NAMES, NAMES), st.integers(0, 2**62), max_size=8))
def test_each_table_has_a_count_of_its_own(tables: dict[tuple[str, str], int]) -> None:
    """Whatever names hold: ends of lines, dots, quotes."""
    told = postgres_rows.count_names(tables.items())
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
        "module_utils/crisper/backup/backends/postgres_sql.py": 5,
        "module_utils/crisper/database/superuser.py": 1,
        "module_utils/crisper/database/catalog.py": 1,
        "module_utils/crisper/database/fresh_cluster.py": 1,  # in a new cluster
    }
    for script in (
        postgres_sql.ASK_POSTGRES,
        postgres_sql.DUMP_POSTGRES,
        postgres_sql.RESTORE_POSTGRES,
    ):
        assert script.startswith(postgres_sql.FIND_SUPERUSER)
    assert postgres_sql.FIND_SUPERUSER.index(
        "search_path=pg_catalog"
    ) < postgres_sql.FIND_SUPERUSER.index("psql")
    assert '--username "$POSTGRES_DB"' in postgres_sql.ASK_APPLICATION
    assert "superuser" not in postgres_sql.ASK_APPLICATION


# Take any type, or have arguments that may be left out: what is planted may match better.
CHOICES = (
    r"\b(?:format|concat|concat_ws|json_\w+|jsonb_\w+|to_json|to_jsonb|array_agg|array_\w+|unnest"
    r"|parse_ident|count|max|min|greatest|quote_literal|row_to_json)\s*\((?!\*)"
    r"|\bpg_terminate_backend\s*\(\s*\w+\s*\)"
)
# A number or a text beside an operator that is not taken for the other side's type.
UNTYPED = (
    r"(?:=|<>|<|>|<=|>=)\s*-?\d|!?~\*?\s*(?:'[^']*'(?!::text))|::regclass::text|'::regclass"
    r"|\b(?!IN\b|VALUES\b|ANY\b)[a-z]\w*\s*\(\s*'[^']*'(?!::)"
)
# Casts of what is no literal: PostgreSQL has these itself. Where it has none, and calls the types'
# functions for output and input, a superuser may have made one.
NAME = r"\w*name|schema|session_user|current_user|pg_get_userbyid\([^()]*\)"
NUMBER = "oid|number|tgrelid|ev_class|polrelid"
CASTS = rf"(?:\w+\.)?(?:(?:{NAME})::(?:text|name)|(?:{NUMBER})::(?:regclass|bigint))"


def find_casts(text: str) -> list[str]:
    """Return the casts that are neither of a literal nor PostgreSQL's own."""
    bare = re.sub(r"'[^']*'::", "::", text)
    found = re.findall(r"[\w.]+(?:\([^()]*\))?::[\w.]+", bare)
    return [each for each in found if not re.fullmatch(CASTS, each)]


def test_superuser_statements_leave_no_choice_of_function_or_operator() -> None:
    """What runs while the application is superuser itself (OPEN_OTHERS, …) needs no such care."""
    library = (ROOT / "library" / "database_identity.py").read_text()
    identity = library.partition("IDENTITY = (")[2].partition("\n)")[0]
    helper = postgres_sql.RESTORE_PREPARATION.replace("@helper@", "h")
    questions = (
        postgres_sql.EXTENSIONS,
        postgres_sql.AVAILABLE,
        postgres_sql.MEMBERS,
        postgres_sql.RELATIONS,
        postgres_sql.ROLES,
    )
    questions += (
        postgres_sql.PLACES,
        postgres_sql.SCHEMAS,
        postgres_sql.DATABASE,
        postgres_sql.MAKE_DATABASE,
        postgres_sql.MAKE_TEMPLATE,
        postgres_sql.OPEN,
        postgres_sql.HOLDERS,
        postgres_sql.AWAITED,
    )
    texts = (
        *(
            helper,
            postgres_sql.RESTORE_CLEANUP,
            postgres_sql.COLUMNS,
            postgres_sql.END_SESSIONS,
            *questions,
            identity,
            postgres_sql.WHO,
        ),
        *(roles_sql.TRANSFER, roles_sql.CARRY, roles_sql.DROP_CARRIED, roles_sql.OBJECTS),
    )
    for text in texts:
        bare = re.sub(r"(?m)^\s*--.*|RAISE EXCEPTION [^;]*;", "", text)
        assert not re.findall(CHOICES, bare), text
        assert not re.findall(UNTYPED, bare), text
        assert find_casts(bare) == [], text
    for wrong in ("format('%I', a)", "unnest(b)", "a = 10", "n !~ '^pg_'", "oid::regclass::text"):
        assert re.findall(f"{CHOICES}|{UNTYPED}", wrong), wrong
    for wrong in ("pg_terminate_backend(pid)", "current_setting('a')"):
        assert re.findall(f"{CHOICES}|{UNTYPED}", wrong), wrong
    for wrong in ("number::text", "current_setting('a'::text)::interval", "x.xact_start::int"):
        assert len(find_casts(wrong)) == 1, wrong


@given(st.lists(NAMES, max_size=4))
def test_no_name_of_an_extension_ends_the_helper(names: list[str]) -> None:
    """Regression: they become part of a function's body, which is part of a script."""
    told = postgres_extensions.allowed_extensions(names, [["1", "plpgsql", "\\N"]], [])
    body = told.removeprefix("extension = ANY (ARRAY[").removesuffix("]::text[])")
    assert re.fullmatch(
        r"E'(?:[\w-]|\\U[0-9a-f]{8})+'(?:, E'(?:[\w-]|\\U[0-9a-f]{8})+')*", body, re.A
    )
    read = [
        re.sub(r"\\U([0-9a-f]{8})", lambda match: chr(int(match[1], 16)), each)
        for each in re.findall(r"E'([^']*)'", body)
    ]
    assert read == sorted({*names, "plpgsql"})


def test_trusted_extensions_are_allowed_where_postgresql_knows_them() -> None:
    rows = [
        ["hstore", "1", "t", "t", "t", "\\N", "\\N", "x"],
        ["c", "1", "t", "f", "t", "", "", "x"],
    ]
    assert (
        postgres_extensions.allowed_extensions([], [], rows)
        == "extension = ANY (ARRAY[E'hstore']::text[])"
    )
    assert (
        postgres_extensions.allowed_extensions([], [], [["old", "1", "t", "t", "", "", "x"]]).count(
            "E'"
        )
        == 0
    )


def test_what_hides_in_an_extension_is_neither_its_scripts_nor_dumped() -> None:
    found = postgres_extensions.find_hidden(
        [["1", "post\\tgis", "{20,21}"], ["2", "free", "\\N"], ["3", "gone", "\\N"]],
        [["post\\tgis", "1", "t"], ["free", "1", "t"], ["free", "2", "f"]],
        [*(["20", "1"], ["22", "1"], ["23", "1"], ["24", "2"], ["25", "3"], ["26", "1"])],
        [["20", "9", "r"], ["22", "9", "v"], ["23", "10", "r"], ["24", "9", "r"], ["25", "9", "S"]],
        [["9", "f"], ["10", "t"]],
    )
    hidden = [("VIEW", 22, "post\tgis"), ("SEQUENCE", 25, "gone")]
    assert found == (["free", "gone", "post\tgis"], hidden)
    with pytest.raises(BackupError, match="cannot be read"):
        postgres_extensions.find_hidden([["1"]], [], [], [], [])


def test_only_what_a_superuser_has_misplaced_is_refused() -> None:
    available = [
        ["citext", "1", "t", "t", "t", "\\N", "\\N", "x"],
        ["plpgsql", "1", "t", "t", "f", "pg_catalog", "\\N", "x"],
        ["pageinspect", "1", "t", "f", "t", "\\N", "\\N", "x"],
        ["adminpack", "1", "t", "f", "f", "pg_catalog", "\\N", "x"],
    ]
    schemas = [["11", "pg_catalog"], ["12", "public"], ["13", "pg_temp_3"]]
    fine = [["citext", "11"], ["plpgsql", "11"], ["pageinspect", "12"], ["adminpack", "11"]]
    assert postgres_extensions.find_misplaced(available, fine, schemas) == []
    wrong = [["pageinspect", "11"], ["citext", "13"], ["gone", "11"]]
    found = postgres_extensions.find_misplaced(available, wrong, schemas)
    assert found == [("citext", "pg_temp_3"), ("gone", "pg_catalog"), ("pageinspect", "pg_catalog")]
    # Before PostgreSQL 13 no row says what is trusted.
    old = [["old", "1", "t", "t", "pg_catalog", "", "x"]]
    assert postgres_extensions.find_misplaced(old, [["old", "11"]], schemas) == []
    with pytest.raises(BackupError, match=r'ALTER EXTENSION "a; b" SET SCHEMA public'):
        postgres_extensions.refuse_misplaced([("a; b", "pg_catalog")])


def test_dangers_are_lines_and_not_many() -> None:
    evil = [(f"evil\x1b[2J\n{number}", "SUPERUSER") for number in range(MOST + 3)]
    told = shorten([of_roles(State("shop", "postgres", powerful=evil)), ["another"]])
    assert len(told) == MOST + 3
    assert all(line.isprintable() for line in told)
    assert told[MOST:-1] == ["another", "and 3 more of these"]
    assert "-e database_rebuild=true" in told[-1]
    assert shorten([[], []]) == []
