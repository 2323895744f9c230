"""What a deploy says of PostgreSQL's roles, and the statements that do it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.connections import Opening
from ansible_collections.crisper.stack.plugins.module_utils.database.own_settings import Setting
from ansible_collections.crisper.stack.plugins.module_utils.database.role_plan import (
    ensure_statements,
    free_name,
    plan,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.role_state import State
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import refuse_extensions
from ansible_collections.crisper.stack.plugins.module_utils.database.scram import scram_verifier

SECRET, OWN = "the superuser's", "the application's"
ORDERLY = State(
    "shop",
    "postgres",
    superuser_verifier=scram_verifier(SECRET),
    roles=("shop", "postgres"),
    role={"login": True, "password": True},
    verifier=scram_verifier(OWN),
    database_owner="shop",
    public_owner="pg_database_owner",
)
ALTER = (
    'ALTER ROLE "shop" LOGIN INHERIT NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;'
)


def test_an_orderly_stack_has_nothing_to_do() -> None:
    for own in ((OWN,), ("the next", OWN), ("", OWN), ("", ""), ()):
        assert plan(ORDERLY, SECRET, [], own) == []
        assert ensure_statements(ORDERLY, SECRET, own) == [ALTER]


@pytest.mark.parametrize(
    ("change", "sentence", "statement"),
    [
        ({"role": {}}, "the role shop is made, without powers", 'CREATE ROLE "shop";'),
        (
            {"memberships": ["pg_read_server_files"]},
            "the role shop leaves pg_read_server_files",
            'REVOKE "pg_read_server_files" FROM "shop";',
        ),
        (
            {"role": {"login": True}},
            "shop gets its password",
            'ALTER ROLE "shop" PASSWORD \'SCRAM-',
        ),
        (
            {"superuser_verifier": ""},
            "postgres gets its password",
            'ALTER ROLE "postgres" PASSWORD',
        ),
        (
            {"database_owner": "x"},
            "the database shop belongs",
            'ALTER DATABASE "shop" OWNER TO "shop"',
        ),
        ({"public_owner": "postgres"}, "the schema public", "ALTER SCHEMA public OWNER TO"),
        (
            {"foreign_owners": [("template1", "x")]},
            "template1 belongs to postgres again, and not to x",
            'ALTER DATABASE "template1" OWNER TO "postgres";',
        ),
        (
            {"connectable": [Opening("postgres", ("",), "", None)]},
            "nobody but superusers connects to postgres",
            'REVOKE CONNECT ON DATABASE "postgres" FROM PUBLIC CASCADE;',
        ),
        (
            {"verifier": scram_verifier("other")},
            "shop gets its password",
            'ALTER ROLE "shop" PASSWORD \'SCRAM-',
        ),
        (
            {"missing_rights": ["CONNECT", "CREATE"]},
            "the role shop has CONNECT, CREATE on its database again",
            'GRANT CONNECT, CREATE ON DATABASE "shop" TO "shop";',
        ),
        (
            {"settings": [Setting('DATABASE "shop"', "statement_timeout", "1")]},
            "sessions of shop start without statement_timeout = 1",
            'ALTER DATABASE "shop" RESET statement_timeout;',
        ),
        ({"limited": True}, "has no limit of connections", "CONNECTION LIMIT -1;"),
        ({"template": True}, "is no template any more", "IS_TEMPLATE false;"),
        ({"restore": True}, "a restore that was killed left", "DROP TRIGGER"),
    ],
)
def test_whatever_is_told_is_done(change: dict[str, Any], sentence: str, statement: str) -> None:
    state = replace(ORDERLY, **change)
    assert sentence in "; ".join(plan(state, SECRET, [], (OWN, "")))
    done = "\n".join(ensure_statements(state, SECRET, (OWN, "")))
    assert statement in done
    assert OWN not in done, "its verifier goes alone"


def test_what_is_done_apart_is_told_too() -> None:
    state = replace(ORDERLY, objects=3, no_template=True)
    assert plan(state, SECRET, ["vector"]) == [
        "3 objects of postgres belong to shop",
        "extensions are made: vector",
        "the database template1, which is missing, is made again from template0",
    ]


def test_the_superuser_gets_a_name_that_no_role_has() -> None:
    state = replace(ORDERLY, superuser="shop")
    assert free_name(replace(state, roles=["shop"])) == "postgres"
    assert free_name(state) == "shop_superuser"
    with pytest.raises(BackupError, match="drop or rename one of them"):
        free_name(replace(state, roles=["postgres", "shop_superuser", "shop_superuser_2"]))
    assert "a new superuser role shop_superuser takes that over" in plan(state, SECRET, [])[0]


@pytest.mark.parametrize("name", ["", "a;b", "1a", "a b", 'a"', "a" * 64])
def test_a_name_that_no_extension_has_is_refused(name: str) -> None:
    refuse_extensions(["vector", "uuid-ossp"])
    with pytest.raises(BackupError, match="database_extensions names"):
        refuse_extensions([name])
