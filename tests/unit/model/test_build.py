"""The model: what templates and roles read, derived from checked variables."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from stack_values import GOOD, OWN, changed


def test_the_model_tells_how_browsers_reach_it():
    proxy = stack_model(GOOD)["proxy"]
    assert (proxy["tls"], proxy["scheme"], proxy["port"]) == ("", "http", 80)
    assert proxy["headers"] == {"X-Frame-Options": "DENY"}
    proxy = stack_model(OWN)["proxy"]
    assert (proxy["tls"], proxy["scheme"], proxy["port"]) == ("own", "https", 443)
    assert proxy["host"] == "app.example"
    assert proxy["headers"]["Strict-Transport-Security"] == "max-age=300"


def test_the_model_counts_memory_of_every_container():
    values = changed("celery_workers.0.replicas", 3)
    model = stack_model(values)
    platform = 6 * 128 * 1024**2  # nginx backend beat postgres redis qdrant
    assert model["memory_bytes"] == platform + 3 * 1024**3
    assert model["pools"][0]["service"] == "celery-worker"
    assert "frontend" not in model["services"]


def test_the_model_holds_what_verification_expects_of_the_workers():
    """Regression: a release that was put back was judged by the inventory of the failed one."""
    celery = stack_model(GOOD)["celery"]
    assert celery == {
        "app": "project.celery",
        "canary_task": "celery.accumulate",
        "guard": True,
        "health": "heartbeat",
        "check_interval": 10,
        "program": ["python", "/opt/crisper-guard"],
        "expected_tasks": [],
        "time_limit": 3600,
        "soft_time_limit": 3300,
        "settings": [],
    }


@pytest.mark.parametrize(
    ("health", "replicas", "seconds"),
    [("heartbeat", 10, 10), ("heartbeat", 50, 50), ("ping", 6, 30), ("ping", 50, 250)],
)
def test_health_checks_of_many_workers_are_rarer(health, replicas, seconds):
    """Regression: those of a hundred workers took a processor, and new workers started too late."""
    values = changed("celery_workers.0.replicas", replicas)
    values["stack_app"]["celery"] |= {"health": health, "guard": health == "heartbeat"}
    assert stack_model(values)["celery"]["check_interval"] == seconds


def test_mariadb_joins_the_model_only_when_enabled():
    assert "mariadb" not in stack_model(GOOD)["services"]
    model = stack_model(GOOD | {"mariadb_enabled": True})
    assert "mariadb" in model["data_services"]
    assert "mariadb_root_password" in model["required_secrets"]


def test_the_key_of_backups_is_made_or_given_and_never_demanded():
    """An inventory of an older edition has none, and deploys as before."""
    given = GOOD["stack_secrets"]
    name = "backup_signing_key"
    vault = GOOD | {"stack_secrets_generate": False}
    assert name not in stack_model(vault)["required_secrets"]
    assert name in stack_model(GOOD)["required_secrets"]
    assert validate(GOOD | {"stack_secrets": {**given, name: "k" * 32}}) == []
    (short,) = validate(GOOD | {"stack_secrets": {**given, name: "short"}})
    assert short.startswith(f"stack_secrets.{name} has 5 characters: give 32 or more")
    app = {**GOOD["stack_app"], "secret_environment": {"SIGNS": name}}
    (leak,) = validate(GOOD | {"stack_app": app, "stack_secrets": {**given, name: "k" * 32}})
    assert f"stack_app.secret_environment.SIGNS is {name}, which signs backup sets" in leak


def test_the_model_has_the_hooks_of_each_point_with_their_defaults():
    hooks = {
        "after_switch": [{"command": ["warm", 2]}, {"name": "n", "command": ["x"], "timeout": 9}]
    }
    assert validate(GOOD | {"rollout_hooks": hooks}) == []
    assert stack_model(GOOD | {"rollout_hooks": hooks})["hooks"] == {
        "after_switch": [
            {"name": "warm 2", "command": ["warm", "2"], "timeout": 600},
            {"name": "n", "command": ["x"], "timeout": 9},
        ]
    }
    assert stack_model(GOOD)["hooks"] == {}
