"""Which tables a dump lacks, and which schemas it leaves out."""

from __future__ import annotations

import io

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    postgres_contents as contents,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres_rows import (
    Tables,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError

NAME = "crisper_restore_0123456789abcdef"
ROLES = [["10", "t"], ["16384", "f"]]


@pytest.mark.parametrize(
    ("schema", "relations", "functions", "helper"),
    [
        (["7", NAME, "10"], [], [["7", "extension"]], True),
        (["7", "crisper_restore", "10"], [["8"]], [], True),
        (["7", NAME, "16384"], [], [["7", "extension"]], False),
        (["7", NAME, "10"], [["7"]], [["7", "extension"]], False),
        (["7", NAME, "10"], [], [["7", "other"]], False),
        (["7", f"{NAME}0", "10"], [], [], False),
        (["7", "public", "10"], [], [], False),
    ],
)
def test_only_the_superusers_helper_is_left_out(
    schema: list[str], relations: list[list[str]], functions: list[list[str]], helper: bool
) -> None:
    found = contents.find_helpers([schema], relations, functions)
    assert found == ([schema[1]] if helper else [])


def tables(rows: int, kind: str = "r", hidden: bool = False) -> Tables:
    named = {"20000": ("public", "a", kind)}
    return Tables({} if hidden else named, named if hidden else {}, {"20000": rows}, {})


@pytest.mark.parametrize(
    ("found", "dumped", "owner", "missing"),
    [
        (tables(0), set(), None, [""]),
        (tables(3), {"20000"}, None, []),
        (tables(3, "p"), set(), None, []),
        (tables(0, hidden=True), set(), None, [""]),
        # Members of an extension: what its script made is the superuser's.
        (tables(3), set(), "10", []),
        (tables(3, hidden=True), set(), "10", []),
        (tables(0), set(), "16384", []),
        (tables(3), set(), "16384", ["queue"]),
    ],
)
def test_rows_that_a_dump_lacks_are_found(
    found: Tables, dumped: set[str], owner: str | None, missing: list[str]
) -> None:
    members = [["20000", "5"]] if owner else []
    relations = [["20000", owner, "r"]] if owner else []
    answers = ([["5", "queue", ""]], [], members, relations, ROLES)
    expected = [('"public"."a"', extension) for extension in missing]
    assert contents.find_missing(found, dumped, *answers) == expected


def test_each_remedy_is_a_statement() -> None:
    contents.refuse_missing([])
    with pytest.raises(BackupError, match=r'ALTER EXTENSION "queue" DROP TABLE a\)'):
        contents.refuse_missing([("a", "queue")])
    with pytest.raises(BackupError, match=r"ALTER TABLE a SET SCHEMA public\)"):
        contents.refuse_missing([("a", "")])


def test_the_counts_go_before_the_dump_in_one_line() -> None:
    stream = contents.Preceded({"a\nb": 1}, io.BytesIO(b"dump\n" * 3))
    read = b"".join(iter(lambda: stream.read(4), b""))
    line, _, rest = read.partition(b"\n")
    assert line.isalnum() or line.strip(b"=").isalnum()
    assert rest == b"dump\n" * 3
