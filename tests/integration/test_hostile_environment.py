"""Hostile values of an inventory, by the roles, the real Compose and a container, to a process."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.utils.url import parse_url

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from hostile_values import PASSWORDS, TEXTS, example, unsafe, written  # noqa: E402

STACK = f"hostile-{os.getpid()}"
IMAGE = f"crispertest-{STACK}"
WANTED = {f"V{index}": text for index, text in enumerate(TEXTS)}
# As long as the kernel takes: NAME=value and its NUL are 128 KiB.
WANTED["LONGEST"] = "한" + "x" * (131_072 - len("LONGEST=") - 3 - 1)
KEY = "-----BEGIN KEY-----\n\"x\" 'y' $z \\n {{ k }}\n-----END KEY-----\n"
WORDS = [text for text in TEXTS if len(text) < 2000]
# GNU cat prints what it can and tells of words that are no files.
COMMAND = ["/bin/cat", "/proc/self/environ", "/proc/self/cmdline", "--", *WORDS]
PLAY = """
- name: A release is staged
  hosts: localhost
  connection: local
  gather_facts: false
  # A fact of role images; an inventory may not set it.
  vars: {stack_images: "{{ test_images }}"}
  roles: [stack, release]
"""


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """Id of an image that holds this machine's cat and the libraries it needs."""
    linked = subprocess.run(["ldd", "/bin/cat"], check=True, capture_output=True, text=True)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", dereference=True) as archive:
        for path in ["/bin/cat", *re.findall(r"(/\S+) \(0x", linked.stdout)]:
            archive.add(Path(path).resolve(), arcname=path.lstrip("/"))
    command = ["docker", "import", "-", IMAGE]
    done = subprocess.run(command, check=True, capture_output=True, input=content.getvalue())
    identity = done.stdout.decode().strip()
    yield identity
    subprocess.run(["docker", "image", "rm", "--force", identity], check=True, capture_output=True)


def play(values: dict[str, Any], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the roles up to the release with an inventory."""
    (folder / "play.yml").write_text(PLAY)
    (folder / "values.yml").write_text(written(unsafe(values)))
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,"]
    command += ["--extra-vars", f"@{folder}/values.yml", str(folder / "play.yml")]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
    }
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)


def inventory(folder: Path, image: str) -> dict[str, Any]:
    """The example site with every hostile value where it may stand."""
    values = example()
    app = values["stack_app"]
    values |= {
        "stack_name": STACK,
        "stack_root": str(folder / "stack"),
        "ansible_python_interpreter": sys.executable,
        "inventory_dir": str(ROOT / "inventories/example"),
        "release_operator": "Kim {{ nobody }} 한국어",
        "release_revision": "1",
        "test_images": {"backend": {"ref": IMAGE, "id": image}},
    }
    # Part of every path of the release.
    values["stack_secrets"] |= {"postgres_password": "releases", "tls_key": KEY}
    app["environment"] = WANTED
    app["secret_environment"]["TLS_KEY"] = "tls_key"
    app["web"]["command"] = COMMAND
    return values


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, image: str) -> Iterator[Path]:
    """The folder of a staged release; its networks are gone afterwards."""
    folder = tmp_path_factory.mktemp("hostile")
    done = play(inventory(folder, image), folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    shown = done.stdout + done.stderr
    assert [name for name, secret in PASSWORDS.items() if secret in shown] == []
    staged = (folder / "stack/next").resolve()
    yield staged
    subprocess.run(
        ["docker", "compose", "down", "--volumes"], cwd=staged, check=True, capture_output=True
    )


def test_a_process_in_a_container_gets_every_value_and_word_as_given(release: Path) -> None:
    done = subprocess.run(
        ["docker", "compose", "run", "--rm", "--no-deps", "-T", "backend"],
        cwd=release,
        capture_output=True,
    )
    entries = done.stdout.split(b"\0")
    begin = entries.index(b"/bin/cat")
    seen = dict(entry.split(b"=", 1) for entry in entries[:begin])
    wanted = {**WANTED, "TLS_KEY": KEY, "SECRET_KEY": PASSWORDS["secret_key"]}
    assert {
        name: text for name, text in wanted.items() if seen[name.encode()] != text.encode()
    } == {}
    assert seen[b"RELEASE"].decode() == release.name
    assert entries[begin:-1] == [word.encode() for word in COMMAND]
    assert (release / "secrets/postgres_password").read_text() == "releases\n"


def test_redis_and_its_clients_take_the_password(release: Path, tmp_path: Path) -> None:
    password = PASSWORDS["redis_password"]
    text = (release / ".env.prod").read_text()
    url = re.search(r'^CELERY_BROKER_URL="(.*)"$', text, re.MULTILINE)[1]
    own = parse_url(url)
    assert own["userid"] == "app"
    assert own["password"] != password
    assert redis.connection.parse_url(url)["password"] == own["password"]
    server = shutil.which("redis-server")
    assert server, "Redis is missing: apt-get install redis-server"
    socket = tmp_path / "redis.sock"
    configuration = tmp_path / "redis.conf"
    configuration.write_text(
        (release / "secrets/redis.conf").read_text().replace("\ndir /data\n", f"\ndir {tmp_path}\n")
    )
    command = [server, str(configuration), "--port", "0", "--unixsocket", str(socket)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        client = redis.Redis(unix_socket_path=str(socket), password=password)
        while True:
            try:
                assert client.ping()
                break
            except (redis.ConnectionError, FileNotFoundError):
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(unix_socket_path=str(socket)).ping()
        application = redis.Redis(
            unix_socket_path=str(socket), username="app", password=own["password"]
        )
        assert application.ping()
        with pytest.raises(redis.ResponseError):
            application.config_get("requirepass")
    finally:
        running.kill()
        running.wait()


def test_what_is_not_fit_is_told_at_once_and_nothing_is_made(tmp_path: Path, image: str) -> None:
    values = inventory(tmp_path, image)
    values["stack_bind_address"] = '0.0.0.0"]\n    privileged: true #'
    values["stack_app"]["environment"] = {"LONG": "x" * (131_072 - len("LONG="))}
    values["stack_secrets"]["redis_password"] = "hunt\x00er2" * 3
    done = play(values, tmp_path)
    assert done.returncode != 0
    told = json.dumps(done.stdout + done.stderr)
    for said in (
        "4 finding(s) in the stack's variables; nothing on a server was changed.",
        "stack_bind_address is '0.0.0.0",
        "stack_app.environment.LONG is 131072 bytes long with its name",
        "stack_secrets.redis_password holds a NUL character",
    ):
        assert said in told
    assert "hunt" not in told
    assert not (tmp_path / "stack").exists()
