"""Containers that are made for one task: whatever runs in them reaches nothing and may nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import drill, throwaway
from ansible_collections.crisper.stack.plugins.module_utils.backup.archive import Expected
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    mariadb,
    postgres,
    qdrant,
    redis,
    uploads,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import Settings
from ansible_collections.crisper.stack.plugins.module_utils.database import (
    upgrade_cluster,
    upgrade_volumes,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.upgrade_stack import Stack
from ansible_collections.crisper.stack.plugins.module_utils.docker import exec as docker_exec

RIGHTS = {"CHOWN", "DAC_OVERRIDE", "FOWNER"}
# What the engine knows of a container of the stack.
SEEN: dict[str, Any] = {
    "Image": "sha256:1a2b",
    "Config": {"User": "999:60902", "Env": ["POSTGRES_DB=shop", "POSTGRES_PASSWORD=secret"]},
    "HostConfig": {"Memory": 1 << 29, "ShmSize": 128 << 20, "Tmpfs": {"/tmp": "size=32m"}},
    "Mounts": [
        {"Type": "bind", "Destination": "/run/secrets/x"},
        {"Type": "volume", "Destination": "/var/lib/postgresql"},
    ],
}


class Engine(docker_exec.Docker):
    """Notes the commands of the Docker client; each succeeds."""

    def __init__(self, **changes: Any) -> None:
        super().__init__("docker", 5)
        self.commands: list[tuple[str, ...]] = []
        self.seen = {**SEEN, **changes}

    def run(self, *arguments: str) -> str:
        self.commands.append(arguments)
        return "{}" if arguments[0] == "compose" else ""

    def inspect(self, container: str) -> dict[str, Any]:
        return self.seen

    def into(self, what: str, command: list[str], source: Any) -> None:
        self.commands.append(tuple(command[1:]))

    def text(self, what: str, command: list[str]) -> str:
        return ""

    def made(self) -> list[tuple[str, ...]]:
        """Return the commands that make containers."""
        return [words for words in self.commands if words[0] in ("run", "create")]


def values(command: tuple[str, ...], option: str) -> list[str]:
    """Return the values of an option."""
    return [command[at + 1] for at, word in enumerate(command) if word == option]


def judge(command: tuple[str, ...]) -> None:
    """Fail unless the container reaches nothing and has no rights but those over files."""
    assert values(command, "--network") == ["none"], command
    assert values(command, "--cap-drop") == ["ALL"], command
    assert values(command, "--security-opt") == ["no-new-privileges"], command
    assert values(command, "--pids-limit"), command
    assert values(command, "--pull") == ["never"], command
    assert "--read-only" in command, command
    (user,) = values(command, "--user")
    assert set(values(command, "--cap-add")) <= (RIGHTS if user == "0:0" else set()), command


def away(engine: Engine) -> drill.Throwaway:
    """Return the containers of a drill."""
    live = dict.fromkeys((*throwaway.USERS, "uploads"), "c1")
    settings = Settings(Path("/"), "demo")
    object.__setattr__(settings, "docker_cli", "docker")
    made = drill.Throwaway(settings, live)
    made.docker = engine
    return made


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Databases that answer what they are asked, with nothing."""
    for module in (postgres, mariadb, qdrant):
        service = module.__name__.rpartition(".")[2]
        monkeypatch.setattr(module, f"{service}_state", lambda *_: {})
        monkeypatch.setattr(module, f"restore_{service}", lambda *_: None)
    monkeypatch.setattr(redis, "redis_keys", lambda *_: {})
    monkeypatch.setattr(qdrant.Qdrant, "wait", lambda _: None)


@pytest.mark.parametrize("service", list(drill.RESTORE))
def test_a_drill_gives_what_it_restores_no_network_and_no_rights(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: its network was outside the firewall, and its containers had root's rights."""
    engine = Engine()
    monkeypatch.setattr(qdrant, "Qdrant", lambda *_: type("Ready", (), {"wait": lambda _: None})())
    containers = away(engine)
    with containers.room():
        drill.RESTORE[service](containers, io.BytesIO())
    assert not [words for words in engine.commands if words[:2] == ("network", "create")]
    assert engine.made()
    for command in engine.made():
        judge(command)
    served = engine.made()[-1]
    assert values(served, "--user") == ["999:60902"]
    assert values(served, "--memory") == [str(1 << 29)]
    assert values(served, "--volume") == [f"demo-drill-{service}:/var/lib/postgresql:nocopy"]
    assert "/tmp:size=32m" in values(served, "--tmpfs")
    assert not [word for word in served if "secret" in word]


@pytest.mark.parametrize("user", ["", "0", "0:0", "root", "postgres", "999"])
def test_a_service_without_a_user_of_its_own_gets_that_of_the_template(user: str) -> None:
    template = (
        Path(__file__).resolve().parents[3] / "templates/docker-compose.prod.yml.j2"
    ).read_text()
    for service, expected in throwaway.USERS.items():
        seen = {"Config": {"User": user}, "HostConfig": {"Memory": 1}, "Mounts": []}
        assert values(tuple(throwaway.service_options(service, seen)), "--user") == [expected]
        assert f'user: "{expected}"' in template
        folders = [v.split(":")[0] for v in throwaway.tmpfs_options(service, {}) if ":" in v]
        assert all(f'tmpfs("{folder}"' in template for folder in folders)
        assert throwaway.service_folder(service, seen) == throwaway.FOLDERS[service]


def test_an_upgrade_gives_its_containers_no_network_and_no_rights(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(
        json.dumps({"images": {"postgres": {"ref": "postgres:18", "id": "sha256:3c4d"}}})
    )
    engine = Engine()
    stack = Stack(tmp_path, "demo", tmp_path, engine, lambda _: None)
    cluster = upgrade_cluster.NewCluster(stack, "c1")
    service = {
        "user": "999:60902",
        "volumes": [{"source": "postgres", "target": "/var/lib/postgresql"}],
        "tmpfs": ["/tmp:mode=1777,size=9m"],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "definition", lambda: service)
        patch.setattr(upgrade_cluster, "wait_until_ready", lambda *_: None)
        with cluster.server():
            pass
    upgrade_volumes.copy_volume(stack, "a", "b", "true", "Nothing was copied")
    server, copy = engine.made()
    judge(server)
    judge(copy)
    assert "/tmp:mode=1777,size=9m" in values(server, "--tmpfs")
    assert any(v.startswith("/var/run/postgresql:") for v in values(server, "--tmpfs"))


def test_what_reads_and_writes_volumes_reaches_nothing() -> None:
    engine = Engine()
    redis.restore_redis(engine, "image", "volume", io.BytesIO(), "a=b")
    judge(engine.made()[0])
    assert values(engine.made()[0], "--log-driver") == ["none"]
    for access in ("ro", "rw"):
        judge(tuple(uploads.Uploads(engine, "image", "volume")._command("true", access)))
    assert Expected(1, 0)
