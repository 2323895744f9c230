"""Passwords of the databases' accounts: none in a server's environment, and none for clients."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import outcome

INVENTORY: dict[str, Any] = {
    "stack_name": "my-shop",
    "mariadb_enabled": True,
    "stack_app": {
        "image": "shop:1",
        "web": {"command": ["x"], "port": 8000, "health_path": "/"},
        "celery": {"app": "shop"},
    },
    "celery_workers": [{"name": "default", "queues": ["default"]}],
}
# Like the official images' and this repository's: both read files and export what they hold.
EXPORTED = {
    "postgres": "POSTGRES_PASSWORD PGPASSWORD",
    "mariadb": "{MARIADB,MYSQL}{,_ROOT}_PASSWORD MYSQL_PWD",
}
EXPORT = "for name in NAMES; do export $name=sentinel; done"
ENTRYPOINTS = {
    "official": f"""#!/usr/bin/env bash
set -Eeo pipefail
_main() {{ {EXPORT}
exec "$@"; }}
[ "${{FUNCNAME[0]:-}}" = source ] || _main "$@"
""",
    "built": f"""#!/usr/bin/env bash
set -Eeo pipefail
main() {{ {EXPORT}
exec "$@"; }}
main "$@"
""",
}


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The files of a release."""
    findings, found = outcome(json.dumps(INVENTORY | {"stack_secrets_generate": True}))
    assert findings == []
    return found


def service(files: dict[str, str], name: str) -> dict[str, Any]:
    """Return a service of the rendered compose file."""
    return yaml.safe_load(files["docker-compose.prod.yml"])["services"][name]


@pytest.mark.parametrize("name", ["postgres", "mariadb"])
@pytest.mark.parametrize("kind", sorted(ENTRYPOINTS))
def test_a_server_starts_without_passwords(
    files: dict[str, str], name: str, kind: str, tmp_path: Path
) -> None:
    definition = service(files, name)
    entrypoint = tmp_path / "docker-entrypoint.sh"
    entrypoint.write_text(ENTRYPOINTS[kind].replace("NAMES", EXPORTED[name]))
    entrypoint.chmod(0o755)
    server = tmp_path / definition["command"][0]
    server.write_text("#!/bin/sh\necho started; env\n")
    server.chmod(0o755)
    words = [word.replace("$$", "$") for word in definition["entrypoint"]]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        [*words, *definition["command"]],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": path, "KEPT": "this"},
        timeout=20,
    )
    assert done.stdout.startswith("started\n")
    assert "KEPT=this" in done.stdout
    assert "sentinel" not in done.stdout


def test_no_client_gets_the_superusers_password(files: dict[str, str]) -> None:
    secret = "made-postgres_superuser_password"
    assert [path for path, text in files.items() if secret in text] == [
        "secrets/postgres_superuser_password"
    ]
    postgres = service(files, "postgres")
    assert postgres["environment"]["POSTGRES_DB"] == "my_shop"
    assert postgres["environment"]["POSTGRES_USER"] == "postgres"
    mounted = {
        name: definition["volumes"]
        for name, definition in yaml.safe_load(files["docker-compose.prod.yml"])["services"].items()
        if "superuser" in str(definition.get("volumes"))
    }
    assert list(mounted) == ["postgres"]
    assert not any("/postgres_password" in str(volume) for volume in mounted["postgres"])


def test_an_inventory_of_an_earlier_edition_needs_no_new_secret() -> None:
    names = ("postgres_password", "redis_password", "qdrant_api_key", "secret_key")
    names += ("mariadb_password", "mariadb_root_password")
    given = INVENTORY | {
        "stack_secrets": dict.fromkeys(names, "x"),
        "stack_secrets_generate": False,
    }
    assert outcome(json.dumps(given))[0] == []
    findings, _ = outcome(
        json.dumps(given | {"stack_secrets": given["stack_secrets"] | {
            "postgres_superuser_password": "a\nb"}})
    )  # fmt: skip
    assert len(findings) == 1
    assert "stack_secrets.postgres_superuser_password" in findings[0]
