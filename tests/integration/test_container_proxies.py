"""Proxies of the Docker client's configuration, by the real Compose, in containers of a stack."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from hostile_values import example, unsafe, written  # noqa: E402

# A process of its own: rendering loads Ansible's controller, and modules in the same process then
# give their warnings to it instead of returning them.
RENDER = """
import json, sys
from rendering import Inventory
print(json.dumps(Inventory(sys.stdin.read()).files()))
"""
STACK = f"proxytest-{os.getpid()}"
PROXY = "http://user:client-secret@127.0.0.1:9"
KEYS = ("httpProxy", "httpsProxy", "ftpProxy", "allProxy", "noProxy")


def docker(*arguments: str, check: bool = True, **options: Any) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, check=False, **options)
    assert done.returncode == 0 or not check, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """An image with one file and no program: nothing of it is run."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("nothing"))
    identity = docker("import", "-", STACK, input=content.getvalue())
    yield identity
    docker("image", "rm", "--force", identity)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration of the Docker client that has proxies, as on hosts behind one."""
    config = {"proxies": {"default": dict.fromkeys(KEYS, PROXY)}}
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "client"))


def release(folder: Path, image: str, **values: Any) -> list[str]:
    """A release of the example site in a folder, with another image for all; its services."""
    inventory = unsafe(example()) | {"stack_name": STACK, "mariadb_enabled": True, **values}
    inventory["stack_secrets"] |= {"mariadb_password": "m", "mariadb_root_password": "m"}
    inventory["stack_app"] |= {"frontend": {"image": "r/x:1", "port": 8080, "health_path": "/"}}
    inventory["stack_app"].setdefault("backend_paths", ["/api/"])
    rendered = subprocess.run(
        [sys.executable, "-c", RENDER],
        input=written(inventory),
        env={**os.environ, "PYTHONPATH": f"{ROOT}/tests/unit:{ROOT}/tests"},
        capture_output=True,
        text=True,
        check=True,
    )
    for path, content in json.loads(rendered.stdout.splitlines()[-1]).items():
        place = folder / path
        place.parent.mkdir(exist_ok=True, parents=True)
        place.write_text(content)
    (folder / ".env").write_text("RELEASE=unit\n")
    compose = yaml.safe_load((folder / "docker-compose.prod.yml").read_text())
    for service in compose["services"].values():
        service |= {"image": image, "command": ["/nothing"]}
        for key in ("ports", "volumes", "networks", "depends_on", "healthcheck"):
            service.pop(key, None)
    for key in ("networks", "volumes"):
        compose.pop(key)
    (folder / "compose.yml").write_text(yaml.safe_dump(compose))
    return list(compose["services"])


def environment(container: str) -> dict[str, str]:
    lines = json.loads(docker("inspect", "--format", "{{json .Config.Env}}", container))
    return dict(line.partition("=")[::2] for line in lines)


def proxies(found: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in found.items() if name.lower().endswith("_proxy")}


@pytest.fixture
def compose(tmp_path: Path) -> Iterator[list[str]]:
    command = ["compose", "--project-name", STACK, "--project-directory", str(tmp_path)]
    command += ["--file", str(tmp_path / "compose.yml")]
    yield command
    docker(*command, "down", "--timeout", "0", "--remove-orphans", check=False)


def test_no_container_gets_the_proxies_of_the_client(
    client: None, image: str, tmp_path: Path, compose: list[str]
) -> None:
    """Regression: health checks and clients of the data services went through the host's proxy."""
    services = release(tmp_path, image)
    assert {"nginx", "frontend", "backend", "celery-worker", "mariadb"} <= set(services)
    docker(*compose, "create")
    for service in services:
        (container, *_) = docker(*compose, "ps", "--all", "--quiet", service).split()
        found = proxies(environment(container))
        assert len(found) == 10, service
        assert set(found.values()) == {""}, service
    # A migration or a hook: the image has no program, so that the container is only created.
    docker(*compose, "run", "--no-deps", "--name", f"{STACK}-once", "backend", "/x", check=False)
    assert set(proxies(environment(f"{STACK}-once")).values()) == {""}
    docker("rm", "--force", f"{STACK}-once")


def test_the_applications_containers_get_the_proxies_of_the_stack(
    client: None, image: str, tmp_path: Path, compose: list[str]
) -> None:
    given = {"http_proxy": "http://u:pa$s@proxy:3128", "no_proxy": "intra.example"}
    services = release(tmp_path, image, stack_container_proxy=given)
    assert "pa$" not in (tmp_path / "docker-compose.prod.yml").read_text()
    docker(*compose, "create")
    for service in services:
        (container, *_) = docker(*compose, "ps", "--all", "--quiet", service).split()
        found = proxies(environment(container))
        if service.startswith(("backend", "celery")):
            assert found["HTTP_PROXY"] == found["http_proxy"] == given["http_proxy"]
            assert found["HTTPS_PROXY"] == found["all_proxy"] == ""
            assert {"intra.example", "redis", "qdrant"} <= set(found["NO_PROXY"].split(","))
        else:
            assert set(found.values()) == {""}
