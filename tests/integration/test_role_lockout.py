"""What the application's role does to itself: a deploy and a restore undo it, or name it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import restore
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import Settings
from ansible_collections.crisper.stack.plugins.module_utils.database.cluster_dangers import (
    of_cluster,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.roles import Roles
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from postgres_server import Server, running_postgres

OWN, SECRET = "own", "superuser's"
USE = "CREATE TEMP TABLE t (x int); DROP TABLE t; SELECT 'works'"
REVOKED = "REVOKE ALL ON DATABASE shop FROM PUBLIC, shop"


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
    assert done.startswith("PostgreSQL: the role shop may connect to its database")
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
