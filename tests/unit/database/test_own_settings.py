"""Which settings and rights keep the application's role out of its own database."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.database.catalog import Catalog
from ansible_collections.crisper.stack.plugins.module_utils.database.own_settings import (
    Setting,
    milliseconds,
    missing_rights,
    own_settings,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.scram import (
    matches,
    scram_verifier,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("name", "value", "locks_out"),
    [
        ("transaction_timeout", "1", True),
        ("statement_timeout", "99ms", True),
        ("statement_timeout", "50us", True),
        ("statement_timeout", "what", True),
        ("statement_timeout", "0", False),
        ("statement_timeout", "30s", False),
        ("statement_timeout", "0.5min", False),
        ("lock_timeout", "50", False),
        ("idle_session_timeout", "1", True),
        ("default_transaction_read_only", "on", True),
        ("default_transaction_read_only", "True", True),
        ("default_transaction_read_only", "off", False),
        ("exit_on_error", "yes", True),
        ("local_preload_libraries", "nonexistent", True),
        ("local_preload_libraries", '""', False),
        ("restrict_nonsystem_relation_kind", "view", True),
        # An operator's wish, or the application's.
        ("search_path", '"$user", public, other', False),
        ("work_mem", "64kB", False),
        ("role", "shop_owner", False),
    ],
)
def test_settings_with_which_no_application_works(name: str, value: str, locks_out: bool) -> None:
    assert Setting('ROLE "shop"', name, value).locks_out is locks_out


@given(st.text())
def test_any_time_is_read_or_refused(text: str) -> None:
    assert milliseconds(text) is None or isinstance(milliseconds(text), float)


def test_settings_that_the_role_may_make_are_found() -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        name: []
        for name in (
            *("pg_authid", "pg_namespace", "pg_language", "pg_am", "pg_foreign_data_wrapper"),
            *("pg_foreign_server", "pg_type", "pg_class", "pg_opfamily", "pg_operator", "pg_proc"),
            *("others_proc", "pg_extension", "pg_depend"),
        )
    }
    rows["pg_authid"] = [
        {"oid": number, "rolname": name, "rolsuper": "f"}
        for number, name in (("7", "shop"), ("8", "other"))
    ]
    rows["pg_database"] = [{"oid": "5", "datname": "shop"}, {"oid": "6", "datname": "other"}]
    rows["pg_db_role_setting"] = [
        {"setdatabase": database, "setrole": role, "setconfig": f'{{"a={database}={role}"}}'}
        for database in ("0", "5", "6")
        for role in ("0", "7", "8", "9")
    ]
    found = own_settings(Catalog("shop", rows), "shop")
    assert [(each.reset, each.value) for each in found] == [
        ('ALTER ROLE "shop" RESET a', "0=7"),
        ('ALTER DATABASE "shop" RESET a', "5=0"),
        ('ALTER ROLE "shop" IN DATABASE "shop" RESET a', "5=7"),
    ]


@pytest.mark.parametrize(
    ("acl", "missing"),
    [
        (None, []),
        ("{=Tc/shop,shop=CTc/shop}", []),
        ("{shop=CTc/shop}", []),
        ("{=Tc/shop}", ["CREATE"]),
        ("{reader=c/shop}", ["CONNECT", "TEMPORARY", "CREATE"]),
        ("{}", ["CONNECT", "TEMPORARY", "CREATE"]),
    ],
)
def test_rights_that_its_owner_took_from_itself_are_missing(
    acl: str | None, missing: list[str]
) -> None:
    assert missing_rights({"datacl": acl}, "shop") == missing


def test_a_verifier_costs_no_more_than_a_moment() -> None:
    """A role chooses its own: PostgreSQL takes one of two thousand million rounds."""
    began = time.monotonic()
    slow = scram_verifier("x", b"salt", 2).replace("$2:", "$2147483647:")
    assert not matches("x", slow)
    assert not matches("x", slow.replace("$2147483647:", "$99999999999999:"))
    assert not matches("x", slow.replace("$2147483647:", "$0:"))
    assert time.monotonic() - began < 5
    assert matches("x", scram_verifier("x", b"salt", 5000))


def test_a_verifier_of_an_older_cluster_is_known() -> None:
    old = "md5" + hashlib.md5(b"xshop", usedforsecurity=False).hexdigest()
    assert matches("x", old, "shop")
    assert not matches("y", old, "shop")
    assert not matches("x", old)
