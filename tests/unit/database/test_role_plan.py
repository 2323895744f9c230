"""What a deploy says of PostgreSQL's roles, and the statements that do it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.connections import Opening
from ansible_collections.crisper.stack.plugins.module_utils.database.own_settings import (
    OwnSetting,
    hinders,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.role_plan import (
    ensure_statements,
    free_name,
    plan,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.role_state import State
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import refuse_extensions
from ansible_collections.crisper.stack.plugins.module_utils.database.scram import scram_verifier

SECRET, OWN = "the superuser's", "the application's"
MD5 = hashlib.md5(f"{OWN}shop".encode(), usedforsecurity=False).hexdigest()
ORDERLY = State(
    "shop",
    "postgres",
    superuser_verifier=scram_verifier(SECRET),
    roles=("shop", "postgres"),
    role={"login": True, "password": True},
    database_owner="shop",
    public_owner="pg_database_owner",
)
ALTER = (
    'ALTER ROLE "shop" LOGIN INHERIT NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;'
)


def test_an_orderly_stack_has_nothing_to_do() -> None:
    assert plan(ORDERLY, SECRET, []) == []
    assert ensure_statements(ORDERLY, SECRET, OWN) == [ALTER]


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
        ({"limited": True}, "has no limit of connections", "CONNECTION LIMIT -1;"),
        ({"template": True}, "is no template any more", "IS_TEMPLATE false;"),
        ({"restore": True}, "a restore that was killed left", "DROP TRIGGER"),
        ({"shut_out": True}, "shop may connect", 'GRANT ALL ON DATABASE "shop" TO "shop";'),
        (
            {"hindering": [OwnSetting('ROLE "shop"', "statement_timeout", "1")]},
            "statement_timeout is no longer '1'",
            'ALTER ROLE "shop" RESET statement_timeout;',
        ),
        (
            {"verifier": scram_verifier("the attacker's")},
            "shop gets the password postgres_password of stack_secrets again",
            'ALTER ROLE "shop" PASSWORD \'SCRAM-',
        ),
    ],
)
def test_whatever_is_told_is_done(change: dict[str, Any], sentence: str, statement: str) -> None:
    state = replace(ORDERLY, **change)
    assert sentence in "; ".join(plan(state, SECRET, [], OWN))
    assert statement in "\n".join(ensure_statements(state, SECRET, OWN))
    assert OWN not in "".join(ensure_statements(state, SECRET, OWN)), "its verifier goes alone"


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


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("statement_timeout", "1", True),
        ("statement_timeout", "0", False),
        ("statement_timeout", "30s", False),
        ("transaction_timeout", "50 ms", True),
        ("transaction_timeout", "0.05s", True),
        ("idle_session_timeout", "1min", False),
        ("lock_timeout", "50ms", False),
        ("lock_timeout", "1", True),
        ("lock_timeout", "x", False),
        ("default_transaction_read_only", "on", True),
        ("default_transaction_read_only", "tr", True),
        ("default_transaction_read_only", "off", False),
        ("default_transaction_read_only", "F", False),
        ("local_preload_libraries", "nonexistent", True),
        ("local_preload_libraries", '""', False),
        ("search_path", "mine, public", False),
    ],
)
def test_a_setting_with_which_no_application_works(name: str, value: str, expected: bool) -> None:
    assert hinders(name, value) is expected


@pytest.mark.parametrize("verifier", ["", scram_verifier(OWN), f"md5{MD5}"])
def test_a_password_that_is_the_applications_stays(verifier: str) -> None:
    state = replace(ORDERLY, verifier=verifier)
    assert plan(state, SECRET, [], OWN) == []
    assert ensure_statements(state, SECRET, OWN) == [ALTER]
    assert plan(replace(ORDERLY, verifier="md5" + "0" * 32), SECRET, [], "") == []
    assert len(plan(replace(ORDERLY, verifier="md5" + "0" * 32), SECRET, [], OWN)) == 1
