"""What a rollout decides, from what runs and what is wanted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.rollout import plan as rollout
from hypothesis import given
from hypothesis import strategies as st

NEW, OLD = "20261120t221500z-1a2b3c4d", "20261119t080000z-99887766"
SERVICES = {
    "nginx": {"kind": "stateful"},
    "backend": {"kind": "web", "replicas": 2},
    "celery-worker": {"kind": "worker"},
    "celery-beat": {"kind": "singleton"},
}


def container(number: int, service: str, release: str = "", **other) -> rollout.Container:
    base = rollout.Container(
        f"{number:064x}", f"x-{service}-{number}", service, release, "i", "running", "healthy"
    )
    return replace(base, **other)


def step(service: str, containers, release: str = NEW, changed=()) -> rollout.Step:
    steps = rollout.decide(SERVICES, containers, release, changed)
    return next(one for one in steps if one.service == service)


# Regression: "release … runs" was no reason for a service whose own settings are the same.
REPLACED = f"a new release: each container has its release's id, these that of {OLD}"


@pytest.mark.parametrize(
    ("service", "containers", "action", "reason"),
    [
        ("backend", [], "create", "no container yet"),
        ("backend", [(1, OLD), (2, OLD)], "roll", REPLACED),
        ("backend", [(1, NEW), (2, NEW)], "keep", "unchanged"),
        ("backend", [(1, NEW)], "roll", "1 of 2 containers run"),
        ("backend", [(1, NEW), (2, NEW), (3, NEW)], "roll", "3 containers run, 2 are wanted"),
        ("celery-worker", [(1, OLD)], "roll", REPLACED),
        ("celery-beat", [(1, OLD)], "recreate", REPLACED),
        ("celery-beat", [(1, NEW)], "keep", "unchanged"),
        ("nginx", [(1, "")], "keep", "unchanged"),
    ],
)
def test_one_service(service, containers, action, reason):
    found = step(service, [container(n, service, release) for n, release in containers])
    assert (found.action, found.reason) == (action, reason)


def test_an_unhealthy_container_of_the_right_release_is_replaced():
    sick = container(1, "celery-worker", NEW, health="unhealthy")
    found = step("celery-worker", [sick])
    assert (found.action, found.old) == ("roll", (sick.id,))
    assert "unhealthy" in found.reason


def test_fixed_services_are_touched_only_for_their_own_sake():
    nginx = container(1, "nginx")
    assert step("nginx", [nginx], changed=["backend"]).action == "keep"
    assert step("nginx", [nginx], changed=["nginx"]).action == "recreate"
    stopped = replace(nginx, state="exited")
    assert step("nginx", [stopped]).action == "recreate"


def test_services_the_release_does_not_have_are_removed():
    orphan = container(9, "celery-worker-gone", OLD)
    found = step("celery-worker-gone", [orphan])
    assert (found.action, found.old) == ("remove", (orphan.id,))


def test_old_containers_stay_until_the_new_ones_serve():
    """Regression: `stop_old` after a failed `start` took the last serving containers away."""
    old = [container(1, "backend", OLD), container(2, "backend", OLD)]
    starting = container(3, "backend", NEW, health="starting")
    only_backend = {"backend": SERVICES["backend"]}
    steps = rollout.decide(only_backend, [*old, starting], NEW, ())
    assert rollout.not_ready(steps) == ["backend: 0 of 2 new containers are healthy"]
    ready = [container(n, "backend", NEW) for n in (3, 4)]
    assert rollout.not_ready(rollout.decide(only_backend, [*old, *ready], NEW, ())) == []


CONTAINERS = st.lists(
    st.builds(
        container,
        st.integers(1, 10**6),
        st.sampled_from([*SERVICES, "gone"]),
        st.sampled_from([NEW, OLD]),
        state=st.sampled_from(["running", "exited", "restarting", "created"]),
        health=st.sampled_from(["healthy", "unhealthy", "starting", "none"]),
    ),
    max_size=8,
    unique_by=lambda c: c.id,
)


@given(CONTAINERS)
def test_no_fit_container_of_the_release_is_ever_retired_below_the_wanted_number(containers):
    for found in rollout.decide(SERVICES, containers, NEW, ()):
        if found.kind not in rollout.ROLLED or found.action == rollout.REMOVE:
            continue
        mine = [c for c in containers if c.service == found.service]
        right = [c for c in mine if c.is_healthy and c.release == NEW and c.id not in found.old]
        fit = [c for c in mine if c.is_healthy and c.release == NEW]
        assert len(right) == min(len(fit), found.replicas)


@given(CONTAINERS)
def test_deciding_again_after_the_plan_was_carried_out_keeps_everything(containers):
    done = []
    number = 10**7
    for found in rollout.decide(SERVICES, containers, NEW, ()):
        if found.action == rollout.REMOVE:
            continue
        kept = [c for c in containers if c.service == found.service and c.id not in found.old]
        if found.action == rollout.KEEP:
            kept = [c for c in containers if c.service == found.service]
        while len(kept) < found.replicas:
            number += 1
            kept.append(container(number, found.service, NEW))
        done += kept
    assert {s.action for s in rollout.decide(SERVICES, done, NEW, ())} <= {rollout.KEEP}


def test_one_off_containers_are_not_the_stacks():
    record = {"Id": "a" * 64, "Name": "/x", "Config": {"Labels": {}}, "State": {}}
    once = {**record, "Config": {"Labels": {"com.docker.compose.oneoff": "True"}}}
    assert len(rollout.parse_inspect([record, once])) == 1


def test_what_compose_would_recreate_is_read_from_its_dry_run():
    """As Compose 2.26 printed it."""
    captured = (
        " DRY-RUN MODE -  Container crisper-nginx-1  Recreate\n"
        " DRY-RUN MODE -  Container crisper-redis-1  Running\n"
        " DRY-RUN MODE -  Container crisper-nginx-1  Recreated\n"
        " DRY-RUN MODE -  Container 39d2289b8f01_crisper-nginx-1  Starting\n"
    )
    assert rollout.recreated(captured) == ["crisper-nginx-1"]
    assert rollout.recreated("") == []


def test_the_node_name_is_pool_host_release_and_container():
    worker = container(10, "celery-worker", NEW, pool="default")
    assert rollout.node_name(worker, "app1") == f"default@app1-{NEW}-{'0' * 12}"


def web_and_workers(workers: int, ready: int = 0) -> list[rollout.Step]:
    return [
        rollout.Step("celery-worker", "worker", rollout.ROLL, "", ("old",), workers, ready),
        rollout.Step("backend", "web", rollout.ROLL, "", ("old",), 2),
    ]


def test_new_containers_start_in_batches_and_web_containers_first():
    assert rollout.batches(web_and_workers(7), 4) == [
        {"backend": 2, "celery-worker": 2},
        {"celery-worker": 4},
        {"celery-worker": 6},
        {"celery-worker": 7},
    ]
    assert rollout.batches(web_and_workers(7, ready=6), 4) == [{"backend": 2, "celery-worker": 7}]


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 20))
def test_every_container_is_in_one_batch_and_no_batch_is_too_large(workers, ready, size):
    running = {"celery-worker": min(ready, workers), "backend": 0}
    for batch in rollout.batches(web_and_workers(workers, running["celery-worker"]), size):
        started = {service: number - running[service] for service, number in batch.items()}
        assert min(started.values()) > 0
        assert sum(started.values()) <= size
        running.update(batch)
    assert running == {"celery-worker": workers, "backend": 2}
