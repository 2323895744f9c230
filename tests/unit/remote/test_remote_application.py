"""The question to an application in its own image: what runs it, and when it is not asked again."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.remote import application

APP = """
import os
from celery import Celery
print("noise")
app = Celery("lab", broker=os.environ["MY_BROKER"])
app.conf.task_default_queue = os.environ.get("MY_QUEUE", "celery")
@app.task(name="work", acks_late=None)
def work(): pass
"""


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Parameters of the module; the image is a folder with an application."""
    (tmp_path / "lab.py").write_text(APP)
    shim = tmp_path / "docker"
    shim.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/log\ncd {tmp_path}; exec {sys.executable} -\n'
    )
    shim.chmod(0o755)
    monkeypatch.delenv("MY_BROKER", raising=False)
    return {
        "docker_cli": str(shim),
        "image": "sha256:0",
        "stack": "shop",
        "root": str(tmp_path),
        "app": "lab",
        "settings": ["task_acks_late=true"],
        "environment": {"MY_BROKER": "redis://app:s3cret@redis:6379/4", "MY_QUEUE": "jobs"},
        "user": "10001",
        "import_timeout": 60,
        "python": "python",
    }


def test_the_application_is_asked_with_its_environment_and_its_workers_settings(
    params: dict[str, Any], tmp_path: Path
) -> None:
    answer = application.ask_application(params)
    assert answer["error"] == ""
    assert answer["facts"]["default_queue"] == "jobs"
    assert answer["facts"]["registered"] == [
        "work [acks_late=True ignore_result=False serializer=json]"
    ]
    assert answer["facts"]["broker"]["library"] == "redis://redis:6379/4"
    command = (tmp_path / "log").read_text()
    assert "--network none" in command
    assert "--log-driver none" in command  # it may print without end
    assert "--user 10001" in command
    # Neither the command nor what is returned has the password.
    assert "s3cret" not in command + json.dumps(answer)
    assert "MY_BROKER" not in os.environ


def test_a_container_that_does_not_end_is_removed_and_is_no_service(
    params: dict[str, Any], tmp_path: Path
) -> None:
    """Regression: it stayed for ever; by its image's labels it passed for the stack's database."""
    shim = Path(params["docker_cli"])
    shim.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n[ $1 = rm ] || exec sleep 60\n')
    params["import_timeout"] = 1 - application.START_SECONDS
    assert "no answer within 1 s" in application.ask_application(params)["error"]
    begun, removed = (tmp_path / "log").read_text().splitlines()
    name = begun.split("--name ")[1].split()[0]
    assert removed == f"rm --force {name}"
    for label in ("project", "service", "oneoff"):
        assert f"--label com.docker.compose.{label}= " in begun


def test_names_and_addresses_are_no_secrets(params: dict[str, Any]) -> None:
    """What a variable with BROKER in its name holds was masked, wherever it stood."""
    params["environment"] = {
        "MY_BROKER": "redis://redis:6379/4",
        "BROKER_URL": "redis://redis:6379/3",
        "MY_QUEUE": "broker-queue",
        "BROKER_QUEUE": "broker-queue",
    }
    facts = application.ask_application(params)["facts"]
    assert facts["default_queue"] == "broker-queue"
    assert list(facts["broker"].values()) == ["redis://redis:6379/4", "redis://redis:6379/3"]


def test_an_unchanged_application_is_not_asked_again(
    params: dict[str, Any], tmp_path: Path
) -> None:
    answer = application.ask_application(params)
    folder = tmp_path / "current"
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"application": answer}))
    (tmp_path / "log").unlink()
    assert application.ask_application(params) == answer
    assert not (tmp_path / "log").exists()
    params["environment"]["MY_QUEUE"] = "others"
    assert application.ask_application(params)["facts"]["default_queue"] == "others"


def test_an_application_that_cannot_be_imported_is_told(params: dict[str, Any]) -> None:
    params["environment"] = {}
    answer = application.ask_application(params)
    assert (answer["facts"], answer["key"]) == ({}, "")
    assert "KeyError" in answer["error"]
