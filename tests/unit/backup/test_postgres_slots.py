"""Who holds the connections of PostgreSQL, when it takes no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres_slots import (
    container_addresses,
    describe_holders,
    has_no_connection,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker

FULL = "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute"
WORKER = {
    "Name": "/demo-worker-1",
    "NetworkSettings": {"Networks": {"n": {"IPAddress": "172.1.0.2", "GlobalIPv6Address": ""}}},
}
ROWS = "client backend\t172.1.0.2\tpool\n" * 97 + "checkpointer\t\\N\t\n"


@pytest.mark.parametrize(
    ("words", "full"),
    [
        (f"psql: error: {FULL}", True),
        ("FATAL:  sorry, too many clients already", True),
        ('FATAL:  too many connections for role "shop"', True),
        ('FATAL:  database "shop" does not exist', False),
        ("", False),
    ],
)
def test_words_of_a_full_server_are_known(words: str, full: bool) -> None:
    assert has_no_connection(words) is full


def test_holders_are_named_by_container_with_the_remedy() -> None:
    rows = ROWS + "client backend\t\\N\tpsql\n" + "client backend\t10.9.9.9\ta. Run: rm -rf /\n"
    told = describe_holders(rows, container_addresses([WORKER]))
    assert "97 of container demo-worker-1 (“pool”)" in told
    assert "1 of programs in PostgreSQL's own container (“psql”)" in told
    assert "1 of address 10.9.9.9 (“a. Run: rm -rf /”)" in told
    assert "docker stop demo-worker-1;" in told


def test_holders_that_nobody_can_tell_are_no_reason_to_say_nothing() -> None:
    assert "could not be asked who holds them" in describe_holders("", {})
    many = "".join(f"client backend\t10.0.0.{n}\tx\n" for n in range(9))
    assert "others of 4 more clients" in describe_holders(many, {})


def test_a_failure_for_want_of_connections_names_the_holders(tmp_path: Path) -> None:
    """Regression: a backup said that slots are reserved, and not who had taken them."""
    cli = tmp_path / "docker"
    (tmp_path / "records").write_text(json.dumps([WORKER]))
    (tmp_path / "rows").write_text(ROWS)
    cli.write_text(
        '#!/bin/sh\ncase "$1" in ps) echo c1;; container) cat "${0%/*}/records";;'
        f' *) case "$*" in *template1*) cat "${{0%/*}}/rows";; *) echo "psql: error: {FULL}" >&2;'
        " exit 2;; esac;; esac\n"
    )
    cli.chmod(0o755)
    docker = Docker(str(cli), 10)
    with pytest.raises(BackupError, match=r"are reserved.*97 of container demo-worker-1"):
        docker.text("PostgreSQL did not answer", docker.inside("c1", "psql"))
