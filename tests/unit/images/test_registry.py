"""What registries have behind references now, against the images on a host."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import image_facts
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.images import registry
from ansible_collections.crisper.stack.plugins.module_utils.images.registry import (
    Answer,
    Registries,
    compare,
)

DIGEST = "sha256:9e5ac54fb260293ecad4456f84c765be4169d3ca70c93bab516c793d667294a3"
OTHER = "sha256:7c3c1c4e0a2b5d0f6f1d8e9a0b1c2d3e4f5061728394a5b6c7d8e9f001122334"
# As the engine of Docker 26.1 answers /distribution/<reference>/json (registry 2.8).
FOUND = {
    "Descriptor": {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": DIGEST,
        "size": 1571,
    },
    "Platforms": [{"architecture": "amd64", "os": "linux"}],
}


@pytest.mark.parametrize(
    ("reference", "repository"),
    [
        ("redis", "docker.io/library/redis"),
        ("redis:8.0", "docker.io/library/redis"),
        ("docker.io/library/redis:8.0", "docker.io/library/redis"),
        ("docker.io/redis:8.0", "docker.io/library/redis"),
        ("index.docker.io/library/redis", "docker.io/library/redis"),
        ("qdrant/qdrant:v1.19.1", "docker.io/qdrant/qdrant"),
        (f"redis:8.0@{DIGEST}", "docker.io/library/redis"),
        ("localhost/shop:1", "localhost/shop"),
        ("127.0.0.1:5000/shop/app:1", "127.0.0.1:5000/shop/app"),
        ("registry.example.com/app", "registry.example.com/app"),
    ],
)
def test_repositories_have_one_name(reference: str, repository: str) -> None:
    assert registry.repository(reference) == repository


@pytest.mark.parametrize(
    ("image", "digests"),
    [
        ({"digests": [f"redis@{DIGEST}"], "labels": None}, {DIGEST}),
        ({"digests": [f"docker.io/library/redis@{DIGEST}", f"redis@{OTHER}"]}, {DIGEST, OTHER}),
        ({"digests": []}, set()),  # built or loaded here
        ({"digests": None}, set()),
        # pushed elsewhere and tagged by hand: the reference's own registry never had it
        ({"digests": [f"127.0.0.1:5000/redis@{DIGEST}"]}, set()),
        # the containerd image store gives a digest to what was built here, too
        ({"digests": [f"redis@{DIGEST}"], "labels": {"crisper.platform": "redis"}}, set()),
        # labels that it inherits, or had when it was pushed
        ({"digests": [f"redis@{DIGEST}"], "labels": {"crisper.platform": "base"}}, {DIGEST}),
        ({"digests": [f"redis@{DIGEST}"], "labels": {"crisper.source": "0f3a"}}, {DIGEST}),
    ],
)
def test_only_what_a_registry_gave_counts_as_pulled(image: Any, digests: set[str]) -> None:
    assert registry.pulled_digests("docker.io/library/redis:8.0", image) == digests


def test_nothing_is_asked_for_digests_and_for_what_was_built_here() -> None:
    asked: list[list[str]] = []
    images = {
        f"r.example/a@{DIGEST}": {"digests": [f"r.example/a@{DIGEST}"]},
        "crisper/backend:src-1": {"digests": []},
    }
    assert compare(images, lambda names: asked.append(names) or []).moved == {}
    assert asked == []


def test_another_digest_is_another_image() -> None:
    images = {
        name: {"digests": [f"{name.partition(':')[0]}@{DIGEST}"]}
        for name in ("r.example/same:1", "r.example/moved:1", "r.example/gone:1")
    }
    answers = [
        Answer("r.example/same:1", DIGEST),
        Answer("r.example/moved:1", OTHER),
        Answer("r.example/gone:1", problem="manifest unknown"),
    ]
    compared = compare(images, lambda names: [a for a in answers if a.reference in names])
    assert compared.moved == {"r.example/moved:1": OTHER}
    assert compared.unanswered == {"r.example/gone:1": "manifest unknown"}
    warning = registry.describe_unanswered(compared.unanswered)
    assert "r.example/gone:1: manifest unknown" in warning
    assert "registry_logins" in warning
    assert registry.describe_unanswered({}) == ""


@pytest.mark.parametrize(
    ("status", "body", "answer"),
    [
        (200, json.dumps(FOUND).encode(), Answer("r:1", DIGEST)),
        (200, b"[]", Answer("r:1", problem="HTTP 200")),
        (
            401,
            b'{"message":"no basic auth credentials"}\n',
            Answer("r:1", problem="no basic auth credentials"),
        ),
        (502, b"<html>", Answer("r:1", problem="HTTP 502")),
    ],
)
def test_replies_of_the_engine(status: int, body: bytes, answer: Answer) -> None:
    assert registry.parse_reply("r:1", status, body) == answer


def test_all_registries_are_asked_at_once_and_waited_for_once(engine: Any) -> None:
    names = [f"silent.example/{number}:1" for number in range(8)]
    engine.has = dict.fromkeys(names)
    engine.has["quick.example/app:1"] = (200, FOUND)
    started = time.monotonic()
    answers = Registries(engine.socket_path, 0.5).ask([*names, "quick.example/app:1"])
    assert time.monotonic() - started < 2
    assert answers[-1].digest == DIGEST
    assert {answer.problem for answer in answers[:-1]} == {"no answer within 0.5 s"}


def test_an_engine_that_is_down_is_a_reason(tmp_path: Path) -> None:
    (answer,) = Registries(str(tmp_path / "none.sock"), 1).ask(["r:1"])
    assert "engine did not answer" in answer.problem


def _sent(engine: Any, reference: str) -> dict[str, str]:
    header = engine.logins[reference]
    return json.loads(base64.urlsafe_b64decode(header)) if header else {}


def test_logins_of_the_client_go_to_their_own_registry(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = base64.b64encode("deploy:pä:ss".encode()).decode()
    config = {
        "auths": {
            "r.example:5000": {"auth": auth},
            registry.HUB_KEY: {"identitytoken": "token"},
            "https://old.example": {"auth": auth},
            "broken.example": {"auth": "\x01"},
        },
        "credHelpers": {"helped.example": "unit", "lost.example": "none"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    helper = tmp_path / "docker-credential-unit"
    helper.write_text('#!/bin/sh\necho \'{"Username": "bot", "Secret": "\'$(cat)\'"}\'\n')
    helper.chmod(0o755)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    names = ["r.example:5000/a:1", "redis:8.0", "old.example/a:1", "broken.example/a:1"]
    names += ["helped.example/a:1", "lost.example/a:1", "other.example/a:1"]
    engine.has = dict.fromkeys(names, (200, FOUND))
    Registries(engine.socket_path, 5).ask(names)
    login = {"username": "deploy", "password": "pä:ss"}
    assert _sent(engine, names[0]) == {**login, "serveraddress": "r.example:5000"}
    assert _sent(engine, names[1]) == {"identitytoken": "token", "serveraddress": registry.HUB_KEY}
    assert _sent(engine, names[2])["username"] == "deploy"
    assert _sent(engine, names[4])["password"] == "helped.example"
    assert [_sent(engine, names[index]) for index in (3, 5, 6)] == [{}, {}, {}]


def test_image_facts_tell_what_has_moved(run_module: Any, engine: Any) -> None:
    image = {"id": "sha256:1", "labels": None, "digests": [f"r.example/app@{OTHER}"]}
    client = engine.folder / "docker"
    client.write_text(
        "#!/bin/sh\nfor reference; do :; done\n"
        f"[ $reference = r.example/app:1 ] && echo '{json.dumps(image)}' && exit\n"
        'echo "Error: No such image: $reference" >&2; exit 1\n'
    )
    client.chmod(0o755)
    engine.has = {"r.example/app:1": (200, FOUND), "r.example/new:1": (200, FOUND)}
    asked = {"docker_cli": str(client), "docker_socket": engine.socket_path}
    asked["references"] = ["r.example/app:1", "r.example/new:1"]
    seen = run_module(image_facts, registry="pulled", **asked)
    assert seen["images"]["r.example/app:1"]["moved"] == DIGEST
    assert (engine.asked, seen["digests"]) == (["r.example/app:1"], {})
    seen = run_module(image_facts, registry="all", **asked)
    assert seen["digests"] == dict.fromkeys(asked["references"], DIGEST)
    assert run_module(image_facts, **asked)["images"]["r.example/app:1"]["moved"] == ""
