"""A container that is about to be replaced refuses no release: whatever is run in it is killed."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import celery_drain
import celery_skew
import deploy_ledger
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.remote import drain as remote_drain
from ansible_collections.crisper.stack.plugins.module_utils.remote import skew as remote_skew
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import MARKER
from ansible_collections.crisper.stack.plugins.module_utils.rollout.distrust import ID_WIDTH

OLD = "0123456789abcdef"
KILLS = "kill -9 $$"
STOPS = "exec sleep 20"
NOT_UNKNOWN = {"waiting": {}, "unreadable": {}, "partial": {}, "unlisted": False, "orphaned": {}}
FINE = {**NOT_UNKNOWN, "problem": "", "error": "", "unknown": {}, "registered": 9}
FORGED = {**FINE, "unknown": {"no.such": 1}, "waiting": {"one": {"no.such": 1}}}
RESUMED = {"problem": "", "error": "", "done": ["w@a"], "queues": {"w@a": ["one"]}}


def says(*replies):
    """Return a command of the shell that answers that, the last one for good."""
    lines = [f"printf '%s\\n' '{MARKER}{json.dumps(reply)}'" for reply in replies]
    if len(lines) == 1:
        return f"cat > /dev/null; {lines[0]}"
    return (
        f"cat > /dev/null; if mkdir '{{once}}' 2> /dev/null; then {lines[0]}; else {lines[1]}; fi"
    )


@pytest.fixture
def docker(tmp_path, monkeypatch):
    """Return a maker of Docker clients: what happens in the old container, and in the release's."""
    told = []
    for module in (celery_skew, celery_drain, deploy_ledger):
        monkeypatch.setattr(module.AnsibleModule, "warn", lambda _, text: told.append(text))

    def make(old, release="exit 1", runs=OLD):
        # `run_command` of Ansible takes a module's language from the environment.
        shim = tmp_path / "docker"
        release = release.replace("{once}", str(tmp_path / "once"))
        cases = f"ps) echo {runs};; exec) {old};; compose) {release};;"
        shim.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/log\ncase "$1" in {cases} esac\n')
        shim.chmod(0o755)
        return SimpleNamespace(
            path=str(shim),
            warned=told,
            asked=lambda: [word for word in (tmp_path / "log").read_text().split() if word != "ps"],
        )

    return make


@pytest.fixture
def soon(monkeypatch):
    """A container that stands still is waited for a second."""
    for module in (remote_skew, remote_drain, deploy_ledger):
        monkeypatch.setattr(module, "hurried", lambda request, _timeout: (dict(request), 0.5))


@pytest.fixture
def skew(run_module, tmp_path):
    def call(client, **options):
        given = {"app": "x", "project_src": str(tmp_path), "project_name": "p", "service": "s"}
        given |= {"running": "backend", "known": ["app.one"], "docker_cli": client.path}
        return run_module(celery_skew, **(given | options))

    return call


@pytest.mark.parametrize("old", [KILLS, STOPS], ids=["kills", "stops"])
def test_the_release_is_asked_where_the_old_container_gives_no_answer(docker, skew, soon, old):
    """Regression: a compromised web container refused every deploy that would have replaced it."""
    client, begun = docker(old, says(FINE)), time.monotonic()
    result = skew(client)
    assert (result.get("failed"), result["problem"], result["registered"]) == (None, "", 9), result
    assert client.asked() == ["exec", "compose"]
    assert f"docker stop {OLD[:ID_WIDTH]}" in client.warned[0]
    assert time.monotonic() - begun < 10


def test_a_release_that_cannot_be_asked_is_refused(docker, skew):
    result = skew(docker(KILLS))
    assert (result["failed"], result["problem"]) == (True, "malformed_reply")


@pytest.mark.parametrize("complete", [False, True])
def test_unknown_tasks_by_the_old_containers_word_alone_refuse_nothing(docker, skew, complete):
    """Regression: tasks were believed to wait that only the old container told of."""
    replies = [FINE] if complete else [FORGED, FINE]
    client = docker(says(FORGED), says(*replies))
    result = skew(client, known_is_all=complete)
    assert (result.get("failed"), result["unknown"]) == (None, {}), result
    assert client.asked() == ["exec", *["compose"] * len(replies)]


def test_of_a_reading_that_was_handed_over_the_same_is_true(docker, skew):
    reading = {key: FORGED[key] for key in celery_skew.READING}
    result = skew(docker(KILLS, says(FORGED, FINE)), reading=reading)
    assert (result.get("failed"), result["unknown"]) == (None, {}), result


@pytest.mark.parametrize("release", ["exit 1", says({**FINE, "problem": "broker_unreachable"})])
def test_what_the_release_cannot_read_is_believed(docker, skew, release):
    """Tasks would be thrown away."""
    result = skew(docker(says(FORGED), release), known_is_all=True)
    assert (result["failed"], result["problem"]) == (True, "unknown_tasks")


def test_what_waits_indeed_refuses_the_release(docker, skew):
    result = skew(docker(says(FORGED), says(FORGED)))
    assert (result["failed"], result["unknown"]) == (True, {"no.such": 1})
    assert not skew(docker(says(FORGED), says(FORGED)), allow_unknown=True).get("failed")


@pytest.fixture
def resume(run_module, tmp_path):
    def call(client, **options):
        given = {"app": "x", "state": "resumed", "queues": {"w@a": ["one"]}, "project": "p"}
        given |= {"service": "backend", "docker_cli": client.path, "project_src": str(tmp_path)}
        return run_module(celery_drain, **(given | options))

    return call


@pytest.mark.parametrize(
    ("old", "runs"),
    [(KILLS, OLD), (STOPS, OLD), (says({"problem": "app_not_importable"}), OLD), (KILLS, "")],
    ids=["kills", "stops", "broken", "none"],
)
def test_workers_resume_by_the_release_that_is_put_back(docker, resume, soon, old, runs):
    """Regression: a rollback ended because the release that had failed gave no answer."""
    client = docker(old, says(RESUMED), runs)
    result = resume(client)
    assert (result.get("failed"), result["resumed"]) == (None, ["w@a"]), result
    assert client.asked() == ["exec", "compose"][not runs :]
    assert [f"docker stop {OLD[:ID_WIDTH]}" in text for text in client.warned] == [True] * bool(
        runs
    )


def test_a_broker_that_is_away_is_not_asked_for_twice(docker, resume):
    client = docker(says({"problem": "broker_unreachable", "error": "no"}), says(RESUMED))
    assert resume(client)["problem"] == "broker_unreachable"
    assert client.asked() == ["exec"]


def test_a_drain_asks_no_release(docker, run_module, tmp_path):
    client = docker(KILLS, says(RESUMED))
    given = {"app": "x", "nodes": ["w@a"], "project": "p", "service": "backend"}
    result = run_module(celery_drain, **given, docker_cli=client.path, project_src=str(tmp_path))
    assert (result["failed"], client.asked()) == (True, ["exec"])


@pytest.mark.parametrize("old", [KILLS, STOPS], ids=["kills", "stops"])
@pytest.mark.parametrize("starts", [True, False])
def test_the_counting_stops_no_deploy(docker, run_module, soon, tmp_path, old, starts):
    """Regression: a release that did not start any more refused the one that was to replace it."""
    (tmp_path / deploy_ledger.MANIFEST).write_text('{"model": {"front": {"tls": false}}}')
    (tmp_path / "front").mkdir()
    client = docker(old, "exit 0" if starts else "echo no such image >&2; exit 1")
    given = {"state": "started", "project": "p", "project_src": str(tmp_path), "known": ["app.one"]}
    result = run_module(deploy_ledger, **given, docker_cli=client.path)
    assert (result.get("failed"), result["all_known"], result["reading"]) == (None, False, {}), (
        result
    )
    assert ("ledger" in result) is starts
    # celery_skew does not wait for it once more.
    assert result["silent"]
    assert f"docker stop {OLD[:ID_WIDTH]}" in client.warned[0]
    assert any("no such image" in text for text in client.warned) is not starts
