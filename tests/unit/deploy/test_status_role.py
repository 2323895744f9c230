"""What role status tells of what did not answer, from its own variables."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import (
    describe_findings as findings_told,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.inspection import (
    report_inspection,
)

ROOT = Path(__file__).resolve().parents[3]
ABSENT = (
    "/usr/local/bin/python: Error while finding module specification for 'crisper_worker.aside'"
    " (ModuleNotFoundError: No module named 'crisper_worker')"
)
NEWER = "/usr/local/bin/python: No module named crisper_worker"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        # Regression: an image that needs no crisper-worker was said to give no answer.
        (ABSENT, ""),
        (NEWER, ""),
        ("ModuleNotFoundError: No module named 'redis'", ""),
        ("ModuleNotFoundError: No module named 'theirs'", "No module named 'theirs'"),
        ("No module named crisper_worker.aside", "No module named crisper_worker.aside"),
        ("Connection refused", "Connection refused"),
    ],
)
def test_an_image_without_the_worker_package_is_no_missing_answer(said: str, told: str) -> None:
    loader = DataLoader()
    known = loader.load_from_file(
        str(ROOT / "roles/status/vars/main.yml"), trusted_as_template=True
    )
    skipped = {"skipped": True}
    known |= {"__status_workers": skipped, "__status_waiting": skipped}
    known["__status_certificate"] = skipped
    known |= {"__status_dead_letters": {"rc": 1, "stderr": said}}
    templar = Templar(loader=loader, variables=known)
    silent = templar.template(trust_as_template("{{ __status_silent }}"))
    assert len(silent) == (1 if told else 0)
    assert told in "".join(silent)


def status(**found: object) -> str:
    """The text of the status, of a stack without containers."""
    stack = {"release": {}, "lock": {}, "unfinished": {}, "last": {}, "maintenance": False}
    stack |= {"containers": [], "serving": "", "backup": "", "problem": ""}
    known = {
        "__status_stack": stack,
        "__status_workers": {},
        "__status_waiting": {},
        "__status_certificate": {},
        "__status_dead_letter_rows": [],
        "__status_silent": [],
        "stack_root": "/opt/x",
        "stack_model": {"queues": []},
        **found,
    }
    text = (ROOT / "roles/status/templates/status.txt.j2").read_text()
    return str(Templar(loader=DataLoader(), variables=known).template(trust_as_template(text)))


def test_a_queue_that_was_read_in_part_says_so() -> None:
    waiting = {
        "waiting": {"long": {"nap": 400_000}, "many": {f"t{n:02}": 1 for n in range(25)}},
        "partial": {"long": {"read": 400_000, "of": 1_000_000}},
    }
    told = status(__status_waiting=waiting)
    assert "Queue     long  400000 read of 1000000 (nap 400000)" in told
    assert "Queue     many  25 (t00 1, " in told
    assert "t19 1 and 5 more names)" in told


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ({"problem": "no_worker_answered", "nodes": {}}, "; NO WORKER CONSUMES IT"),
        ({"problem": "", "nodes": {"w@a": {"active_queues": []}}}, "; NO WORKER CONSUMES IT"),
        ({"problem": "", "nodes": {"w@a": {"active_queues": [{"name": "q"}]}}}, "; 1 worker"),
        ({"problem": "docker_unavailable", "nodes": {}}, ""),
        ({"failed": True}, ""),
    ],
)
def test_a_queue_says_how_many_workers_consume_it(workers: dict[str, object], words: str) -> None:
    """Regression: 240 tasks waited for a worker that had stopped, and the status looked good."""
    model = {"queues": ["q", "empty"]}
    waiting = {"waiting": {"q": {"nap": 240}}, "problem": ""}
    told = status(__status_waiting=waiting, __status_workers=workers, stack_model=model)
    assert f"Queue     q  240 (nap 240){words}\n" in told
    assert f"Queue     empty  0{'; NO WORKER CONSUMES IT' if words else ''}\n" in told


def test_tasks_with_an_eta_that_were_not_asked_for_are_not_none() -> None:
    nodes = {"w@a": {"active": [], "scheduled": [{}]}, "w@b": {"active": []}}
    told = status(__status_workers={"nodes": nodes})
    assert "w@a  0 active, 0 reserved, 1 scheduled" in told
    assert "w@b  0 active, 0 reserved, an unknown number of scheduled" in told


def test_a_hostile_worker_neither_ends_the_status_nor_forges_its_lines() -> None:
    """Regression: `{"error": …}` in place of a list ended it with a traceback of Jinja."""
    forged = "w@b\nRelease   20990101t000000z-00000000 (proved)\x1b[2J"
    replies = {
        "ping": [{"w@a": {"ok": "pong"}}, {forged: {"ok": "pong"}}],
        "active": [{"w@a": {"error": "no such method"}}, {forged: [{}]}],
        "active_queues": [{"w@a": [{"name": "q\nWorker    x"}]}, {forged: {"error": 1}}],
    }
    result = report_inspection({"replies": replies, "seconds": 0.1}, {}, None)
    waiting = {"problem": "", "waiting": {"q\u2028Queue": {"\x1b[31mt": 3}}, "orphaned": []}
    told = status(
        __status_workers={**result, "msg": findings_told(result["findings"])},
        __status_waiting=waiting,
        __status_dead_letter_rows=["an id\n"],
        __status_silent=[findings_told(result["findings"])],
    )
    lines = [line for line in told.split("\n") if line]
    assert r"Worker    w@a  0 active, 0 reserved, an unknown number of scheduled; queues" in told
    assert r"w@b\nRelease   20990101t000000z-00000000 (proved)\x1b[2J  1 active" in told
    assert r"q\u2028Queue  3 (\x1b[31mt 3)" in told
    assert [line for line in lines if line.startswith("Release")] == [
        "Release   none: nothing was deployed to /opt/x"
    ]
    assert "\x1b" not in told


@pytest.mark.parametrize(
    ("lock", "words"),
    [
        ({}, "a deploy was cut off. Run the deploy again"),
        ({"purpose": "deploy"}, "the deploy that has the lock is still running"),
        ({"purpose": "rollback"}, "the rollback that has the lock is still running"),
    ],
)
def test_requests_that_a_running_deploy_has_switched_are_no_interrupted_deploy(
    lock: dict[str, str], words: str
) -> None:
    """Regression: during a deploy the status said that it was cut off and to run it again."""
    release = {"id": "r", "created": "now", "operator": "ops", "revision": "", "verified": True}
    owner = {"run": "1", "who": "ops", "since": "now", "step": "stop_old"}
    stack = {"release": release, "lock": lock and {**owner, **lock}, "unfinished": {}, "last": {}}
    stack |= {"containers": [], "serving": "r2", "backup": "", "problem": "", "kept": 1}
    stack["maintenance"] = False
    told = status(__status_stack=stack, __status_by_tag=[])
    assert f"Requests  go to release r2: {words}" in told
    assert ("Run the deploy again" in told) is not lock


def test_columns_of_services_are_as_wide_as_the_longest_name() -> None:
    """Regression: a name longer than the column moved the rest of its line."""
    facts = {"state": "running", "health": "healthy", "since": "now", "restarts": 0}
    facts |= {"exit_code": None, "release": ""}
    names = ["demo-redis-1", "demo-celery-worker-embeddings-1"]
    stack = {"release": {}, "lock": {}, "unfinished": {}, "last": {}, "maintenance": False}
    stack |= {"containers": [{"name": name, **facts} for name in names]}
    told = status(__status_stack={**stack, "serving": "", "backup": "", "problem": ""})
    rows = [line for line in told.split("\n") if line.startswith("Service")]
    assert len({row.index("running") for row in rows}) == 1


def test_images_that_a_registry_may_move_are_listed() -> None:
    release = {"id": "r", "created": "now", "operator": "ops", "revision": "", "verified": True}
    stack = {"release": release, "lock": {}, "unfinished": {}, "last": {}, "maintenance": False}
    stack |= {"containers": [], "serving": "", "backup": "", "problem": "", "kept": 1}
    known = {"__status_stack": stack, "__status_by_tag": ["image_refs.redis (redis:8.0)"]}
    assert "By tag    image_refs.redis (redis:8.0)\n" in status(**known)
    assert "By tag" not in status(**known | {"__status_by_tag": []})


@pytest.mark.parametrize(
    ("purpose", "next_run"),
    [
        ("backup", "backup replaces it"),
        ("deploy", "deploy picks it up"),
        ("", "deploy picks it up"),
    ],
)
def test_what_was_cut_off_says_which_run_comes_next(purpose: str, next_run: str) -> None:
    cut = {"purpose": purpose, "run": "r", "who": "ops", "step": "copy", "at": "now"}
    stack = {"release": {}, "lock": {}, "unfinished": cut, "last": {}, "maintenance": False}
    stack |= {"containers": [], "serving": "", "backup": "", "problem": ""}
    told = status(__status_stack=stack)
    name = purpose or "deploy"
    assert f"Cut off   {name} r of ops, in step copy at now: the next {next_run}\n" in told
