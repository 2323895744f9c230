"""How catalogs are read, and how they are judged against those of a new cluster."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.acl import rights
from ansible_collections.crisper.stack.plugins.module_utils.database.catalog import (
    parse,
    parse_array,
    parse_field,
    script,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.catalog_tables import TABLES
from ansible_collections.crisper.stack.plugins.module_utils.database.cluster_dangers import (
    DANGEROUS_SETTING,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.comparison import differences
from ansible_collections.crisper.stack.plugins.module_utils.database.measure import Measure
from ansible_collections.crisper.stack.plugins.module_utils.database.role_state import find_powers
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))


def escaped(text: str) -> str:
    """Write a value as COPY does."""
    for plain, told in (("\\", "\\\\"), ("\n", "\\n"), ("\t", "\\t"), ("\r", "\\r")):
        text = text.replace(plain, told)
    return text


def quoted(text: str) -> str:
    """Write an element of an array as PostgreSQL does, with quotes always."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(TEXT)
def test_a_value_of_copy_is_read_as_it_was(text: str) -> None:
    assert parse_field(escaped(text)) == text
    assert parse_field("\\N") is None


@given(st.lists(TEXT))
def test_an_array_is_read_as_it_was(texts: list[str]) -> None:
    assert parse_array("{" + ",".join(map(quoted, texts)) + "}") == texts
    assert parse_array("{a,b}") == ["a", "b"]
    assert parse_array(None) == []


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5))
def test_no_value_is_taken_for_the_next_table(rows: list[tuple[str, str, str]]) -> None:
    names, mark = TABLES["ident"].names(), "mark-5d1c0e"  # random where it is used
    lines = [f"{mark} ident", *("\t".join(map(escaped, row)) for row in rows), f"{mark} end"]
    told = parse("\n".join(lines), mark)
    # An empty line is no row: every row has tabs.
    assert [tuple(row[name] for name in names) for row in told["ident"]] == rows


@pytest.mark.parametrize("text", ["", "m ident", "m ident\na\tb", "m ident\na\tb\nm end"])
def test_half_an_answer_is_an_error_of_the_backup(text: str) -> None:
    with pytest.raises(BackupError, match="cannot be read"):
        parse(text, "m")


def test_catalogs_are_read_without_a_choice_of_function_or_operator() -> None:
    """What is compared is a column and a literal, which has the column's type."""
    for line in script("m").splitlines():
        if line.startswith("COPY"):
            assert "::" not in line
            for word in ("=", "<", ">="):
                for place in line.split(f" {word} ")[1:]:
                    assert place.startswith("'"), line


def test_rights_are_those_of_everybody_but_superusers() -> None:
    acl = '{postgres=X/postgres,=X/postgres,"\\"o\\"\\"dd=r\\"=X*/postgres",shop=arw/postgres}'
    assert rights("pg_proc", acl, {"postgres"}) == {"=X", 'o"dd=r=X', "shop=a", "shop=r", "shop=w"}
    assert rights("pg_proc", None, {"postgres"}) == {"=X"}
    assert rights("pg_class", None, {"postgres"}) == set()


def test_fewer_rights_are_no_finding() -> None:
    wanted = Measure({"builtin": {"a": ["1"]}}, {"builtin": {"a": ["=X", "b=X"]}})
    found = Measure({"builtin": {"a": ["1"]}}, {"builtin": {"a": ["=X"]}})
    assert not any(differences(found, wanted, ["builtin"]).values())
    assert differences(wanted, found, ["builtin"])["open"] == ["a (b=X)"]


def test_what_differs_is_told_by_part() -> None:
    wanted = Measure({"builtin": {"a": ["1", "1"], "b": ["2"]}, "extension x": {"c": ["3"]}})
    found = Measure({"builtin": {"a": ["1"], "d": ["4"]}, "extension x": {"c": ["5"]}})
    told = differences(found, wanted, ["builtin", "extension x"])
    assert told["changed"] == ["a", "c of extension x"]
    assert (told["added"], told["missing"], told["open"]) == (["d"], ["b"], [])
    assert "c of extension x" not in differences(found, wanted, ["builtin"])["changed"]


def test_powers_come_by_membership_and_by_a_circle_too() -> None:
    def role(oid: str, name: str, **flags: str) -> dict[str, Any]:
        attributes = ("rolsuper", "rolreplication", "rolcreaterole", "rolbypassrls")
        return {"oid": oid, "rolname": name, **dict.fromkeys(attributes, "f"), **flags}

    roles = [role("1", "a", rolsuper="t"), role("2", "b"), role("3", "c"), role("4", "d")]
    members = [{"member": "2", "roleid": "1"}, {"member": "3", "roleid": "2"}]
    members += [{"member": "2", "roleid": "3"}]
    told = find_powers({"pg_authid": roles, "pg_auth_members": members})
    assert told == {"1": {"SUPERUSER"}, "2": {"member of a"}, "3": {"member of a"}, "4": set()}


@pytest.mark.parametrize(
    "name", ["jit_provider", "archive_command", "shared_preload_libraries", "hba_file"]
)
def test_settings_that_run_something_are_dangerous(name: str) -> None:
    assert DANGEROUS_SETTING.match(name)
    assert not DANGEROUS_SETTING.match("work_mem")
