"""Limits of processes, and sizes of tmpfs, of every container of a stack."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model import container_limits as limits
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from ansible_collections.crisper.stack.plugins.module_utils.model.validators import size_bytes
from front_files import rendered
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD

EVERYTHING = {"mariadb_enabled": True}
MIB = 1024**2


def services(**values: Any) -> dict[str, Any]:
    return yaml.safe_load(rendered("docker-compose.prod.yml.j2", **values))["services"]


def options(mount: str) -> dict[str, str]:
    """Options of a tmpfs by name, its path among them."""
    path, _, text = mount.partition(":")
    pairs = (option.partition("=")[::2] for option in text.split(","))
    return {"path": path, **dict(pairs)}


def test_every_container_has_a_limit_of_processes() -> None:
    """Regression: one that forked without end took every process id of the host."""
    found = services(**EVERYTHING)
    assert {"nginx", "frontend", "backend", "celery-worker", "celery-beat"} <= found.keys()
    assert {"postgres", "redis", "qdrant", "mariadb"} <= found.keys()
    for name, service in found.items():
        pids = service["deploy"]["resources"]["limits"]["pids"]
        assert limits.LEAST_PIDS <= pids <= 100_000, name


def test_every_tmpfs_has_a_size_and_runs_no_programs() -> None:
    """Regression: without a size it grew until the memory limit ended some process."""
    for name, service in services(**EVERYTHING).items():
        memory = size_bytes(service["deploy"]["resources"]["limits"]["memory"])
        mounts = [options(mount) for mount in service["tmpfs"]]
        assert "/tmp" in [mount["path"] for mount in mounts], name
        for mount in mounts:
            size = mount["size"]
            assert int(size) if size.isdigit() else size_bytes(size)
            assert (int(size) if size.isdigit() else size_bytes(size)) <= memory, name
            assert {"noexec", "nosuid", "nodev"} <= mount.keys(), name


@given(st.integers(1, 512))
def test_a_pool_never_meets_the_default(concurrency: int) -> None:
    """A numerical library starts a thread for each processor in each child process."""
    assert limits.worker_pids(concurrency) >= 128 * (concurrency + 1) + 64


def test_a_pool_has_as_many_as_its_children_need() -> None:
    values = copy.deepcopy(GOOD)
    values["celery_workers"] = [
        {"name": "default", "queues": ["a"], "concurrency": 100},
        {"name": "own", "queues": ["b"], "pids": 77, "tmp": "64m", "memory": "2g"},
    ]
    assert validate(values) == []
    first, second = stack_model(values)["pools"]
    assert (first["pids"], first["tmp"]) == (limits.worker_pids(100), 512 * MIB)
    assert (second["pids"], second["tmp"]) == (77, 64 * MIB)


def test_an_operator_sets_them_beside_memory_and_cpus() -> None:
    values = copy.deepcopy(GOOD)
    values["stack_limits"]["redis"] |= {"pids": 100, "tmp": "1m"}
    values["stack_app"]["web"] |= {"pids": 5000, "tmp": "128m"}
    assert validate(values) == []
    found = stack_model(values)["limits"]
    assert (found["redis"]["pids"], found["redis"]["tmp"]) == (100, MIB)
    assert (found["backend"]["pids"], found["backend"]["tmp"]) == (5000, 128 * MIB)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pids": 31}, "redis.pids is 31: give a whole number"),
        ({"pids": "many"}, "redis.pids is 'many'"),
        ({"pids": True}, "redis.pids is True"),
        ({"pids": 10**9}, "redis.pids is 1000000000"),
        ({"tmp": "1k"}, "redis.tmp is '1k': give a size of 1m or more"),
        ({"tmp": 64}, "redis.tmp is 64"),
        ({"tmp": "2g"}, "redis.tmp is '2g', more than stack_limits.redis.memory (512m)"),
    ],
)
def test_what_does_not_fit_is_told_with_the_remedy(given: dict[str, Any], said: str) -> None:
    values = copy.deepcopy(GOOD)
    values["stack_limits"]["redis"] = {"memory": "512m", "cpus": 1, **given}
    (finding,) = validate(values)
    assert said in finding
