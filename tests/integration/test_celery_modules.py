"""celery_inspect and celery_canary against real workers in real containers.

A compose project of two workers and Redis. The workers run Python's image with the controller's
own Celery mounted, so that nothing is built and nothing downloaded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import stack_redis  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.celery.settings import settings_warnings  # noqa: E402
from celery_lab import APP, PASSWORD  # noqa: E402

PROJECT = f"crispertest-{os.getpid()}"
PYTHON = os.environ.get("CRISPER_TEST_PYTHON_IMAGE", "python:3.13-slim-trixie")
REDIS = os.environ.get("CRISPER_TEST_REDIS_IMAGE", "redis:8.0")
NODES = ["default@host1", "io@host1"]
Run = Callable[..., dict[str, Any]]
Docker = Callable[..., str]


@pytest.fixture(scope="module")
def ansible_module() -> Run:
    """Run a module of library/ through Ansible itself; its result."""

    def run(module: str, **arguments: Any) -> dict[str, Any]:
        command = [str(Path(sys.executable).with_name("ansible")), "-i", "localhost,", "localhost"]
        command += ["-c", "local", "-m", module, "-a", json.dumps(arguments)]
        command += ["-e", f"ansible_python_interpreter={sys.executable}"]
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
        }
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        found = re.search(r"^localhost \| (\w+)!? => (?=\{)", done.stdout, re.MULTILINE)
        assert found is not None, done.stdout + done.stderr
        result = json.JSONDecoder().raw_decode(done.stdout[found.end() :])[0]
        return {**result, "failed": found[1] == "FAILED"}

    return run


@pytest.fixture
def docker() -> Docker:
    """The Docker client."""

    def run(*arguments: str) -> str:
        done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, f"docker {arguments}: {done.stderr}"
        return done.stdout.strip()

    return run


def worker(folder: Path, node: str, queues: str, app: str = "lab") -> dict[str, Any]:
    """A worker as a compose service."""
    command = ["python", "-m", "celery", "-A", app, "worker", "-n", node, "-Q", queues]
    command += ["-c", "2", "--time-limit", "3600", "--soft-time-limit", "3300"]
    return {
        "image": PYTHON,
        "pull_policy": "never",
        "init": True,
        "user": "10001:10001",
        "working_dir": "/app",
        "command": command,
        "environment": {
            "PYTHONPATH": "/site",
            "PYTHONDONTWRITEBYTECODE": "1",
            "CELERY_BROKER_URL": stack_redis.url(PASSWORD, "redis", 6379),
        },
        "volumes": [f"{folder}:/app:ro", f"{sysconfig.get_paths()['purelib']}:/site:ro"],
        "depends_on": ["redis"],
        "stop_grace_period": "5s",
    }


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The compose project's folder; its containers are gone afterwards."""
    folder = tmp_path_factory.mktemp("app")
    folder.chmod(0o755)
    (folder / "lab.py").write_text(APP)
    # the same application after somebody renamed a task
    (folder / "renamed.py").write_text(APP.replace('name="health_check"', 'name="healthcheck"'))
    (folder / "broken.py").write_text("import nonesuch\n")
    user = stack_redis.app_user(PASSWORD, stack_redis.STACK)
    (folder / "redis.conf").write_text(f"requirepass {PASSWORD}\nsave ''\n{user}\n")
    compose = {
        "name": PROJECT,
        "services": {
            "redis": {
                "image": REDIS,
                "pull_policy": "never",
                "command": ["redis-server", "/run/redis.conf"],
                "volumes": [f"{folder}/redis.conf:/run/redis.conf:ro"],
            },
            "celery-worker": worker(folder, "default@host1", "default,embeddings"),
            "celery-worker-io": worker(folder, "io@host1", "io"),
        },
    }
    file = folder / "docker-compose.yml"
    file.write_text(json.dumps(compose))
    command = ["docker", "compose", "-f", str(file)]
    try:
        up = subprocess.run([*command, "up", "-d"], capture_output=True, text=True)
        if up.returncode != 0:
            pytest.fail(
                f"{up.stderr.strip()}\nAn image is missing? `ansible-playbook playbooks/images.yml`"
                f" makes {PYTHON} and {REDIS}."
            )
        yield folder
    finally:
        subprocess.run([*command, "down", "-v", "-t", "3"], check=True, capture_output=True)


@pytest.fixture
def inspect(project: Path, ansible_module: Run) -> Run:
    """celery_inspect, asked from the container of the worker io."""

    def run(expect: dict[str, Any], **options: Any) -> dict[str, Any]:
        where = {"project": PROJECT, "service": "celery-worker-io", "app": "lab"}
        if "container" in options:
            where = {"app": "lab"}
        return ansible_module("celery_inspect", **{**where, "expect": expect, **options})

    return run


EXPECT: dict[str, Any] = {
    "nodes": NODES,
    "count": 2,
    "no_foreign_nodes": True,
    "pools": {
        "default": {"queues": ["default", "embeddings"], "concurrency": 2},
        "io": {"queues": ["io"], "concurrency": 2},
    },
    "registered": ["health_check"],
    "time_limit": 3600,
    "soft_time_limit": 3300,
    "accept_content": ["json"],
    "task_serializer": "json",
}


def settled(ask: Callable[[], dict[str, Any]], seconds: float = 60) -> dict[str, Any]:
    """Ask until nothing is found any more, while containers start."""
    end = time.monotonic() + seconds
    while (result := ask())["findings"] and time.monotonic() < end:
        time.sleep(1)
    return result


def codes(result: dict[str, Any]) -> list[str]:
    return sorted(finding["code"] for finding in result["findings"])


@pytest.fixture
def ready(inspect: Run) -> dict[str, Any]:
    """What the workers answer once both are up."""
    return settled(lambda: inspect(EXPECT))


def test_workers_as_declared_are_accepted(ready: dict[str, Any]) -> None:
    assert ready["findings"] == []
    assert ready["problem"] == ""
    assert ready["changed"] is False
    assert sorted(ready["nodes"]) == NODES
    assert set(ready["nodes"][NODES[0]]) >= {"ping", "stats", "conf", "revoked", "scheduled"}
    assert PASSWORD not in json.dumps(ready)


def test_settings_of_real_workers_that_lose_or_repeat_tasks_are_told(ready: dict[str, Any]) -> None:
    """Celery's own: early acknowledgement, and kombu's hour for a limit of an hour."""
    found = settings_warnings(ready["nodes"], NODES, limit=3600)
    assert all(line.startswith("celery-worker, celery-worker-io: ") for line in found)
    early, twice, *others = found
    assert others == [], found
    assert "task_acks_late is False" in early
    assert "3600 s (celery_task_time_limit), and after 3600 s (visibility_timeout" in twice


def test_a_wrong_queue_and_a_missing_task_are_named_together(
    ready: dict[str, Any], inspect: Run
) -> None:
    pools = {"default": {"queues": ["default", "emeddings"]}}
    result = inspect({**EXPECT, "pools": pools, "registered": ["health_check", "renamed_task"]})
    assert result["failed"] is True
    assert codes(result) == ["unregistered_task", "unregistered_task", "wrong_queues"]
    assert all(word in result["msg"] for word in ("emeddings", "renamed_task", "default@host1"))


def test_a_canary_comes_back_from_every_queue(ready: dict[str, Any], ansible_module: Run) -> None:
    where = {"project": PROJECT, "service": "celery-worker", "app": "lab", "nodes": NODES}
    queues = ["default", "embeddings", "io"]
    result = ansible_module("celery_canary", **where, task="health_check", queues=queues)
    assert result["findings"] == []
    assert {queue: entry["state"] for queue, entry in result["queues"].items()} == dict.fromkeys(
        queues, "SUCCESS"
    )


def test_questions_and_canaries_are_one_call(ready: dict[str, Any], inspect: Run) -> None:
    sent = {"task": "health_check", "queues": ["default", "io"], "nodes": NODES, "timeout": 5}
    result = inspect(EXPECT, canary=sent)
    assert not result.get("failed")
    assert {queue: seen["state"] for queue, seen in result["canary"]["queues"].items()} == {
        "default": "SUCCESS",
        "io": "SUCCESS",
    }
    # both are told: what a worker is not, and which canary did not come back
    unmet = {**EXPECT, "registered": ["renamed_task"]}
    lost = inspect(unmet, canary={**sent, "queues": ["io", "nobody"], "timeout": 2})
    assert lost["failed"] is True
    assert "renamed_task" in lost["msg"]
    assert [finding["queue"] for finding in lost["canary"]["findings"]] == ["nobody"]
    assert set(codes(lost)) == {"unregistered_task"}


def test_canaries_that_do_not_come_back_are_named(
    ready: dict[str, Any], ansible_module: Run, docker: Docker
) -> None:
    where = {"project": PROJECT, "service": "celery-worker", "app": "lab", "timeout": 3}
    queues = ["default", "nobody", "io"]
    lost = ansible_module("celery_canary", **where, task="health_check", queues=queues)
    assert lost["failed"] is True
    assert [finding["queue"] for finding in lost["findings"]] == ["nobody"]
    left = ["redis-cli", "--no-auth-warning", "-a", PASSWORD, "LLEN", "nobody"]
    assert docker("exec", f"{PROJECT}-redis-1", *left) == "0", "a canary was left in the queue"

    stranger = {**where, "nodes": ["other@host1"]}
    foreign = ansible_module("celery_canary", **stranger, task="health_check", queues=["io"])
    assert "io@host1" in foreign["msg"]

    failing = ansible_module("celery_canary", **where, task="failing", queues=["io"])
    assert "ValueError" in failing["msg"]
    assert PASSWORD not in json.dumps(failing)


def test_a_task_that_was_renamed_in_the_running_worker(
    ready: dict[str, Any], inspect: Run, project: Path, docker: Docker
) -> None:
    file = project / "docker-compose.yml"
    before = file.read_text()
    compose = json.loads(before)
    service = compose["services"]["celery-worker"]
    service["command"] = ["renamed" if w == "lab" else w for w in service["command"]]
    file.write_text(json.dumps(compose))
    try:
        docker("compose", "-f", str(file), "up", "-d", "celery-worker")

        def only_the_task() -> dict[str, Any]:
            result = inspect(EXPECT)
            starting = codes(result) != ["unregistered_task"]
            return {"findings": [1] if starting else [], "result": result}

        result = settled(only_the_task)["result"]
        assert codes(result) == ["unregistered_task"]
        assert result["findings"][0]["node"] == "default@host1"
        assert "health_check" in result["msg"]
    finally:
        file.write_text(before)
        docker("compose", "-f", str(file), "up", "-d", "celery-worker")
    assert settled(lambda: inspect(EXPECT))["findings"] == []


def test_a_key_of_a_wrong_type_is_named_as_the_cause(
    ready: dict[str, Any], inspect: Run, docker: Docker
) -> None:
    """Regression: workers took no task, and the remedies were a restart and a longer timeout."""
    login = ("exec", "--env", f"REDISCLI_AUTH={PASSWORD}", f"{PROJECT}-redis-1", "redis-cli")
    docker(*login, "SET", "unacked_lease", "a string")
    try:
        sent = {"task": "health_check", "queues": ["nobody"], "nodes": NODES, "timeout": 2}
        result = inspect(EXPECT, canary=sent)
        (finding,) = result["canary"]["findings"]
        told = "Workers take no task: the key 'unacked_lease' in Redis is a string, and Celery's"
        assert finding["message"].startswith(told)
        assert finding["message"].endswith(" DEL unacked_lease")
        seen = inspect(EXPECT)
        assert not seen["failed"]
        assert seen["unreadable"] in finding["message"]
    finally:
        docker(*login, "DEL", "unacked_lease")
    assert inspect(EXPECT)["unreadable"] == ""


def test_a_stopped_worker_is_named(ready: dict[str, Any], inspect: Run, docker: Docker) -> None:
    docker("stop", f"{PROJECT}-celery-worker-1")
    try:
        result = inspect(EXPECT, timeout=2)
        assert result["problem"] == "nodes_silent"
        assert "node_silent" in codes(result)
        assert "default@host1" in result["msg"]
        gone = inspect(EXPECT, service="celery-worker", timeout=2)
        assert gone["problem"] == "container_not_running"
        assert "celery-worker" in gone["msg"]
    finally:
        docker("start", f"{PROJECT}-celery-worker-1")
    assert settled(lambda: inspect(EXPECT))["findings"] == []


def test_troubles_are_told_apart(ready: dict[str, Any], inspect: Run, docker: Docker) -> None:
    assert inspect({}, app="broken")["problem"] == "app_not_importable"
    assert inspect({}, python="python9")["problem"] == "app_not_importable"
    missing = inspect({}, container=f"{PROJECT}-nothing")
    assert missing["problem"] == "container_not_running"
    assert inspect({}, docker_cli="/nonexistent/docker")["problem"] == "docker_unavailable"
    docker("stop", f"{PROJECT}-redis-1")
    try:
        down = inspect(EXPECT, timeout=2)
        assert down["problem"] == "broker_unreachable"
        assert PASSWORD not in json.dumps(down)
    finally:
        docker("start", f"{PROJECT}-redis-1")
    assert settled(lambda: inspect(EXPECT))["findings"] == []
