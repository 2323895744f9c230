"""A private registry (Debian's docker-registry with htpasswd): logins, pulls, and moving tags."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

ROOT = Path(__file__).resolve().parents[2]
import deploy_begin  # noqa: E402
from hostile_values import example, unsafe, written  # noqa: E402

PASSWORD = "regi stry-pa$s"
# PASSWORD by bcrypt, the only kind that docker-registry takes.
HTPASSWD = "deploy:$2y$05$abcdefghijklmnopqrstuuC7QObAxNp2r5Sh2gsoDxfiuBvxES3gO\n"
PLAY = """
- name: Provide the images of a release
  hosts: localhost
  connection: local
  gather_facts: false
  roles: [stack, images]
  tasks:
    - name: Write the images of the release
      ansible.builtin.copy:
        content: "{{ stack_images | to_json }}"
        dest: "{{ result_file }}"
        mode: "0600"
"""


def docker(*arguments: str, given: bytes | None = None, check: bool = True) -> str:
    command = ["docker", *arguments]
    done = subprocess.run(command, input=given, capture_output=True, check=check)
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a registry on this machine that wants a login; Docker takes it without TLS."""
    assert shutil.which("docker-registry"), "docker-registry is missing: scripts/test-servers"
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (folder / "htpasswd").write_text(HTPASSWD)
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": address},
        "auth": {"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}},
    }
    (folder / "config.yml").write_text(json.dumps(config))
    with (folder / "log").open("w") as log:
        command = ["docker-registry", "serve", str(folder / "config.yml")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", int(address.partition(":")[2]))) == 0:
                    break
            time.sleep(0.1)
        else:
            raise AssertionError((folder / "log").read_text())
        yield address
        process.terminate()
        process.wait()


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own for the Docker client: no login of this machine is touched."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    return tmp_path / ".docker" / "config.json"


@pytest.fixture
def push(registry: str, tmp_path: Path) -> Iterator[Callable[[str, str], str]]:
    """Push a new image with some content under a name, as another machine would; return its id."""
    login = tmp_path / "pusher"
    pushed: list[str] = []

    def push(name: str, content: str) -> str:
        archive = BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as stream:
            entry = tarfile.TarInfo("content")
            entry.size = len(content.encode())
            stream.addfile(entry, BytesIO(content.encode()))
        reference = f"{registry}/{name}"
        here = docker("image", "inspect", "--format", "{{.Id}}", reference, check=False)
        identity = docker("import", "-", reference, given=archive.getvalue())
        own = ["--config", str(login)]
        words = [*own, "login", "--username", "deploy", "--password-stdin", registry]
        docker(*words, given=PASSWORD.encode())
        docker(*own, "push", "--quiet", reference)
        docker("image", "rm", "--force", identity)
        if here:
            docker("image", "tag", here, reference)
        pushed.append(identity)
        return identity

    yield push
    for identity in pushed:
        docker("image", "rm", "--force", identity, check=False)


def deploy(folder: Path, *options: str, **values: Any) -> tuple[dict[str, Any], str]:
    """Images of the release and the play's output."""
    stack = unsafe(example()) | {
        "stack_name": f"regtest-{os.getpid()}",
        "stack_root": str(folder / "stack"),
    }
    (folder / "play.yml").write_text(PLAY)
    result = folder / "images.json"
    result.unlink(missing_ok=True)
    (folder / "vars.yml").write_text(written(stack | values | {"result_file": str(result)}))
    command = ["ansible-playbook", "-i", "localhost,", str(folder / "play.yml"), *options]
    command += [
        "-e",
        f"@{folder / 'vars.yml'}",
        "-e",
        f"ansible_python_interpreter={sys.executable}",
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    output = done.stdout + done.stderr
    return (json.loads(result.read_text()) if result.exists() else {}), output


def login(registry: str, password: str = PASSWORD) -> list[dict[str, str]]:
    return [{"registry": registry, "username": "deploy", "password": password}]


def site(registry: str) -> dict[str, Any]:
    """A site whose every image comes from the private registry."""
    refs = {
        name: f"{registry}/{name}:1" for name in ("nginx", "postgres", "redis", "qdrant", "python")
    }
    return {"image_refs": refs, "image_source": "registry", "mariadb_enabled": False}


def test_images_are_pulled_with_a_login_and_followed(
    registry: str, client: Path, push: Callable[[str, str], str], tmp_path: Path
) -> None:
    values = site(registry)
    app = unsafe(example())["stack_app"] | {"image": f"{registry}/app:latest"}
    app.pop("frontend", None)
    values["stack_app"] = app
    first = {
        name: push(f"{name}:1", f"{name} one") for name in ("nginx", "postgres", "redis", "qdrant")
    }
    first["backend"] = push("app:latest", "app one")

    images, output = deploy(tmp_path, **values)
    assert images == {}
    assert "registry_logins" in output, output
    for name in ("nginx", "postgres", "redis", "qdrant"):
        assert f"The pull ({registry}/{name}:1) failed" in output
    assert "no basic auth credentials" in output

    images, output = deploy(tmp_path, **values, registry_logins=login(registry, "wrong-password"))
    assert images == {}
    assert "The login to a registry" in output
    assert registry in output
    assert "wrong-password" not in output
    assert not client.exists()

    values["registry_logins"] = login(registry)
    images, output = deploy(tmp_path, **values)
    assert {name: image["id"] for name, image in images.items()} == first, output
    assert PASSWORD not in output
    assert client.stat().st_mode & 0o777 == 0o600

    images, output = deploy(tmp_path, **values)
    assert "changed=1 " in output, output  # the file that this test reads

    # The same tags, other images: one of the platform, and the application's.
    second = first | {
        "redis": push("redis:1", "redis two"),
        "backend": push("app:latest", "app two"),
    }
    images, output = deploy(tmp_path, **values)
    assert {name: image["id"] for name, image in images.items()} == second, output


def pin(folder: Path, **values: Any) -> tuple[dict[str, str], str]:
    """What playbooks/digests.yml writes into an inventory, and its output."""
    stack = unsafe(example()) | {"stack_name": f"regtest-{os.getpid()}", "stack_become": False}
    (folder / "hosts").write_text("[stack]\nlocalhost ansible_connection=local\n")
    stack |= {"ansible_python_interpreter": sys.executable}
    (folder / "vars.yml").write_text(written(stack | values))
    command = ["ansible-playbook", "-i", str(folder / "hosts"), "playbooks/digests.yml"]
    command += ["-e", f"@{folder / 'vars.yml'}"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    path = folder / "group_vars" / "all" / "image_digests.yml"
    found = yaml.safe_load(path.read_text())["image_digests"] if path.exists() else {}
    return found, done.stdout + done.stderr


def test_an_image_that_is_pinned_stays_whatever_its_registry_moves(
    registry: str, client: Path, push: Callable[[str, str], str], tmp_path: Path
) -> None:
    """The attack: who can push to the registry puts another image behind the tag of a deploy."""
    values = site(registry) | {"registry_logins": login(registry)}
    app = unsafe(example())["stack_app"] | {"image": f"{registry}/app:latest"}
    app.pop("frontend", None)
    values["stack_app"] = app
    names = {"nginx": "nginx:1", "postgres": "postgres:1", "redis": "redis:1", "qdrant": "qdrant:1"}
    names["backend"] = "app:latest"
    first = {name: push(tag, f"{name} pinned") for name, tag in names.items()}
    # What has no answer is named, and the others are written nevertheless.
    pinned, output = pin(tmp_path, **{**values, "registry_logins": []})
    assert pinned == {}, output
    assert "no basic auth credentials" in output
    pinned, output = pin(tmp_path, **values)
    assert set(pinned) == {f"{registry}/{tag}" for tag in names.values()}, output
    assert "image_digests.yml: written" in output

    for name, tag in names.items():
        push(tag, f"{name} attack")
    # Regression: check mode ended with an error where an image of the platform was missing.
    _, output = deploy(tmp_path, "--check", **values, image_digests=pinned)
    assert "failed=0" in output, output
    assert f"Would be pulled: {registry}/nginx:1" in output
    images, output = deploy(tmp_path, **values, image_digests=pinned)
    assert {name: image["id"] for name, image in images.items()} == first, output
    # Known by their tags: the compose file has these.
    assert images["redis"]["ref"] == f"{registry}/redis:1"
    assert (
        docker("image", "inspect", "--format", "{{.Id}}", f"{registry}/redis:1") == first["redis"]
    )

    # A digest that the registry does not have ends the deploy.
    wrong = pinned | {f"{registry}/redis:1": "sha256:" + "0" * 64}
    images, output = deploy(tmp_path, **values, image_digests=wrong)
    assert images == {}
    assert f"The pull of {registry}/redis:1 by its digest" in output, output


def begin(capsys: pytest.CaptureFixture[str], root: Path, project: str, reference: str) -> Any:
    """What deploy_begin sees of a stack."""
    asked = {"root": str(root), "project": project, "stages": {"images": "i"}, "inputs": "a"}
    asked |= {"references": [reference, "absent.example/never/pulled:1"]}
    asked["owner"] = {"id": "x", "who": "x", "controller": "x", "process": "1@2"}
    with (
        patch_module_args({**asked, "_ansible_check_mode": True}),
        pytest.raises(SystemExit),
    ):
        deploy_begin.main()
    return json.loads(capsys.readouterr().out)


def test_deploy_begin_sees_another_image_under_the_same_tag(
    registry: str,
    client: Path,
    push: Callable[[str, str], str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Regression: a deploy found nothing to do while the registry had a new image."""
    project, reference = f"regtest-{os.getpid()}", f"{registry}/begin:latest"
    first = push("begin:latest", "begin one")
    docker("login", "--username", "deploy", "--password-stdin", registry, given=PASSWORD.encode())
    docker("pull", "--quiet", reference)
    (tmp_path / "current").mkdir()
    manifest = {"id": "r", "inputs": "a", "images_inputs": "i", "docker_cli": "docker"}
    manifest |= {"images": {"web": {"ref": reference, "id": first}}}
    (tmp_path / "current" / "manifest.json").write_text(json.dumps(manifest))
    labels = [f"com.docker.compose.project={project}", "com.docker.compose.service=web"]
    command = ["create", *(word for label in labels for word in ("--label", label))]
    container = docker(*command, reference, "/nothing")
    try:
        seen = begin(capsys, tmp_path, project, reference)
        assert (seen["moved"], seen["same"]["images"]) == ({}, True)
        push("begin:latest", "begin two")
        seen = begin(capsys, tmp_path, project, reference)
        assert list(seen["moved"]) == [reference]
        assert not seen["same"]["images"]
        docker("logout", registry)
        seen = begin(capsys, tmp_path, project, reference)
        assert (seen["moved"], seen["same"]["images"]) == ({}, True)
        assert "no basic auth credentials" in seen["unanswered"][reference]
    finally:
        docker("rm", "--force", container)
