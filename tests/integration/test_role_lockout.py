"""What the application's role does to itself: a deploy and a restore undo it, or name it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import restore
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.postgres import (
    dump_postgres,
    restore_postgres,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import Settings
from ansible_collections.crisper.stack.plugins.module_utils.database.cluster_dangers import (
    of_cluster,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.own_settings import (
    describe_lockout,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import Roles
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from postgres_server import Server, running_postgres

OWN, SECRET = "own", "superuser's"
USE = "CREATE TEMP TABLE t (x int); DROP TABLE t; SELECT 'works'"
# What a role may do to itself, and the beginning of what a deploy says of it.
REVOKED = "REVOKE ALL ON DATABASE shop FROM PUBLIC, shop"
BY_ITSELF = {
    REVOKED: "the role shop has CONNECT, TEMPORARY, CREATE on its database again",
    "ALTER ROLE shop SET default_transaction_read_only = on": "sessions of shop start without",
    "ALTER DATABASE shop SET default_transaction_read_only = on": "sessions of shop start without",
    "ALTER ROLE shop IN DATABASE shop SET local_preload_libraries = nowhere": "sessions of shop",
    "ALTER ROLE shop SET statement_timeout = 1": "sessions of shop start without statement_time",
    "ALTER ROLE shop PASSWORD 'x'": "the role shop gets its password",
}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres("postgres", "shop", "x") as server:
        yield server


@pytest.fixture
def roles(server: Server, docker: Docker) -> Roles:
    """An orderly stack's."""
    roles = Roles(docker, "x", "shop")
    roles.apply(SECRET, OWN, [])
    server.sql("DROP TABLE IF EXISTS items; CREATE TABLE items AS SELECT 1 AS id", "shop")
    return roles


@pytest.mark.parametrize("statement", BY_ITSELF)
def test_a_deploy_lets_the_application_in_again(
    server: Server, roles: Roles, statement: str
) -> None:
    """Regression: plan, dangers and what was done were empty, and it stayed locked out."""
    server.sql(statement, "shop")
    assert server.log_in("shop", OWN, USE) != "works"
    (done,) = roles.apply(SECRET, OWN, [])["done"]
    assert done.startswith(BY_ITSELF[statement])
    assert server.log_in("shop", OWN, USE) == "works"
    assert roles.apply(SECRET, OWN, [])["done"] == []


@pytest.mark.parametrize("statement", BY_ITSELF)
def test_a_restore_of_a_dump_needs_no_deploy(
    server: Server, roles: Roles, docker: Docker, statement: str
) -> None:
    """Regression: it failed, and said that the dump needs a superuser."""
    dump = io.BytesIO()
    rows = dump_postgres(docker, "x", dump)["rows"]
    server.sql(statement, "shop")
    if statement == REVOKED:
        with pytest.raises(BackupError, match=r"may not connect.*deploy\.yml"):
            dump_postgres(docker, "x", io.BytesIO())
    else:
        dump_postgres(docker, "x", io.BytesIO())
    dump.seek(0)
    restore_postgres(docker, "x", dump, rows=rows)
    roles.apply(SECRET, OWN, [])


def test_what_an_operator_may_want_stays_and_is_named(
    server: Server, roles: Roles, docker: Docker
) -> None:
    wish = "ALTER ROLE shop SET statement_timeout = '30s'; ALTER ROLE shop SET search_path = app"
    server.sql(f"{wish}; ALTER ROLE shop SET lock_timeout = '2s'", "shop")
    assert roles.apply(SECRET, OWN, [])["done"] == []
    assert describe_lockout(docker, "x", "shop", roles.state().settings) == []
    server.sql("ALTER DATABASE shop CONNECTION LIMIT 0", "postgres")
    (sentence,) = describe_lockout(docker, "x", "shop", roles.state().settings)
    assert "cannot use its database" in sentence
    assert 'ALTER ROLE "shop" RESET search_path (now app)' in sentence
    server.sql("ALTER ROLE shop RESET ALL; ALTER DATABASE shop CONNECTION LIMIT -1", "postgres")


def test_the_password_of_the_release_that_serves_stays(server: Server, roles: Roles) -> None:
    """Whoever changes postgres_password alone finds out by a deploy that changes nothing."""
    assert roles.apply(SECRET, "next", [], OWN)["done"] == []
    assert server.log_in("shop", OWN) == "shop"


def test_a_restore_of_a_set_puts_the_roles_in_order_first(
    server: Server, roles: Roles, docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "current" / "secrets"
    folder.mkdir(parents=True)
    (folder / "postgres_password").write_text(f"{OWN}\n")
    (folder.parent / "manifest.json").write_text(json.dumps({"id": "a"}))
    monkeypatch.setattr(restore, "services", lambda _: {"postgres": "x"})
    settings = Settings(tmp_path, "shop", docker_cli=docker.cli)
    server.sql(REVOKED, "shop")
    assert restore.order_roles(settings) == []  # an earlier edition's release
    (folder / "postgres_superuser_password").write_text(SECRET)
    (done,) = restore.order_roles(settings)
    assert done.startswith("PostgreSQL: the role shop has CONNECT")
    assert server.log_in("shop", OWN, USE) == "works"


def test_nothing_of_a_former_superuser_reaches_passwords_or_the_disk(
    server: Server, roles: Roles
) -> None:
    """Regression: pg_read_all_data showed the verifier, a slot keeps the log for ever."""
    server.sql("GRANT pg_read_all_data, pg_monitor TO shop", "postgres")
    server.sql("SELECT pg_create_physical_replication_slot('x', true)", "postgres")
    assert roles.apply(SECRET, OWN, [])["done"] == [
        "the role shop leaves pg_monitor, pg_read_all_data"
    ]
    with pytest.raises(RuntimeError, match="permission denied"):
        server.sql("SELECT rolpassword FROM pg_authid", "shop")
    roles.state()
    (sentence,) = [each for each in of_cluster(roles.catalog, "shop") if "slot" in each]
    server.sql(sentence.partition("If it is not yours: ")[2], "postgres")
    assert roles.state().memberships == []
    assert not any("slot" in each for each in of_cluster(roles.catalog, "shop"))
