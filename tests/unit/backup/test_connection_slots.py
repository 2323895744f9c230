"""Who holds the connections of a data service, when it takes no more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.slots import (
    LOCAL,
    SERVICES,
    container_addresses,
    count_clients,
    describe_holders,
    full_service,
    refuses_all,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import (
    BackupError,
    NoConnectionError,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from hypothesis import given
from hypothesis import strategies as st

FULL = "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute"
PSQL = f'psql: error: connection to server on socket "/run/x" failed: {FULL}'
WORKER = {
    "Name": "/demo-worker-1",
    "NetworkSettings": {"Networks": {"n": {"IPAddress": "172.1.0.2", "GlobalIPv6Address": ""}}},
}
POSTGRES = SERVICES["postgres"]
# As the kernel writes it: its own address, the other one, and the state.
TCP = (
    "   1: {own}:{port:04X} {other}:9C40 {state} 00000000:00000000 00:00000000 00000000   999 0 5\n"
)
UNIX = "0000: 00000003 00000000 00010000 0001 {state} 4711 {path}\n"
OURS = "0300010A"


def connection(other: str = "020001AC", state: str = "01", port: int = 5432) -> str:
    return TCP.format(own=OURS, port=port, other=other, state=state)


@pytest.mark.parametrize(
    ("words", "service", "refused"),
    [
        (PSQL, "postgres", True),
        (f"“{PSQL}”", "postgres", True),
        ("psql: error: FATAL:  sorry, too many clients already", "postgres", True),
        (
            '| WARNING: x\n| psql: error: FATAL:  too many connections for role "s"',
            "postgres",
            True,
        ),
        # Of an application, and of statements with names of its own.
        (f"psycopg.OperationalError: connection failed: {FULL}", "postgres", False),
        (f'psql:<stdin>:3: ERROR:  relation "{PSQL}" is locked', "postgres", False),
        ("ERROR 1040 (08004): Too many connections", "mariadb", True),
        ("“ERROR 1040 (08004): Too many connections”", "mariadb", True),
        (
            "“ERROR 2002 (HY000): Received error packet before completion of TLS handshake. The"
            " authenticity of the following error cannot be verified: 1040 - Too many connections”",
            "mariadb",
            True,
        ),
        ('OperationalError: (1040, "Too many connections")', "mariadb", False),
        (
            "ERROR 1146 (42S02) at line 1: ERROR 1040 (08004): Too many connections",
            "mariadb",
            False,
        ),
        ("ERR max number of clients reached", "redis", True),
        ("redis.exceptions.ConnectionError: max number of clients reached", "redis", False),
        ('FATAL:  database "shop" does not exist', "", False),
        ("", "", False),
    ],
)
def test_words_of_a_full_server_are_known(words: str, service: str, refused: bool) -> None:
    assert (full_service(words), refuses_all(words)) == (service, refused)


def test_connections_are_counted_by_client() -> None:
    mapped = "0000000000000000FFFF0000020001AC"
    sockets = "".join(
        [
            "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n",
            connection(state="0A", other="00000000"),  # the server's own, which listens
            connection() * 3,
            connection(state="08"),  # closed by the client alone
            connection(state="06"),  # TIME_WAIT: nobody's any more
            connection(port=9999),
            connection(other="0100007F"),
            TCP.format(own="0" * 32, port=5432, other=mapped, state="01"),
            TCP.format(own="0" * 32, port=5432, other="B80D0120" + "0" * 23 + "1", state="01"),
            UNIX.format(state="03", path="/var/run/postgresql/.s.PGSQL.5432"),
            UNIX.format(state="01", path="/var/run/postgresql/.s.PGSQL.5432"),
            UNIX.format(state="03", path="/run/other"),
            "nonsense\n1: x y 01 a b c d e f\n",
        ]
    )
    assert count_clients(sockets, POSTGRES) == {"172.1.0.2": 5, LOCAL: 2, "2001:db8::100:0": 1}


@given(st.text())
def test_whatever_is_printed_is_counted(text: str) -> None:
    assert all(number > 0 for number in count_clients(text, POSTGRES).values())


def test_holders_are_named_by_container_with_the_remedy() -> None:
    sockets = connection() * 97 + connection("0909090A")
    told = describe_holders(sockets, POSTGRES, container_addresses([WORKER]))
    assert "PostgreSQL: 97 of container demo-worker-1 (172.1.0.2), 1 of address 10.9.9.9." in told
    assert "docker stop demo-worker-1;" in told
    local = UNIX.format(state="03", path="/var/run/postgresql/.s.PGSQL.5432")
    assert "1 of programs in PostgreSQL's own container" in describe_holders(local, POSTGRES, {})


def test_holders_that_nobody_can_tell_are_no_reason_to_say_nothing() -> None:
    assert "stop containers of the application" in describe_holders("", POSTGRES, {})
    many = "".join(connection(f"0{n}00000A") for n in range(1, 10))
    assert "others of 4 more clients" in describe_holders(many, POSTGRES, {})


def stand_in(folder: Path, sockets: str, failure: str, code: int) -> Docker:
    """Return a Docker client whose container has these sockets, and where psql fails."""
    cli = folder / "docker"
    (folder / "records").write_text(json.dumps([WORKER]))
    (folder / "sockets").write_text(sockets)
    cli.write_text(
        '#!/bin/sh\ncase "$1" in ps) echo c1;; container) cat "${0%/*}/records";;'
        f' *) case "$*" in *proc/net*) cat "${{0%/*}}/sockets";; *) echo \'{failure}\' >&2;'
        f" exit {code};; esac;; esac\n"
    )
    cli.chmod(0o755)
    return Docker(str(cli), 10)


def test_a_failure_for_want_of_connections_names_the_holders(tmp_path: Path) -> None:
    """Regression: a backup said that slots are reserved, and not who had taken them."""
    docker = stand_in(tmp_path, connection() * 97, PSQL, 2)
    with pytest.raises(NoConnectionError, match=r"are reserved.*97 of container demo-worker-1"):
        docker.text("PostgreSQL did not answer", docker.inside("c1", "psql"))


def test_a_statement_cannot_pass_for_a_refused_connection(tmp_path: Path) -> None:
    docker = stand_in(tmp_path, connection(), f"ERROR: x\n{PSQL}", 3)
    with pytest.raises(BackupError, match="Who holds") as raised:
        docker.text("PostgreSQL did not answer", docker.inside("c1", "psql"))
    assert not isinstance(raised.value, NoConnectionError)
