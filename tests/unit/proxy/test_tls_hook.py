"""The hook of an ACME client: nginx serves what the client has renewed, and no deploy is harmed."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.proxy import tls_hook
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate_files import FRONT
from issued_certificates import bring, client_files, issued, put


@pytest.fixture
def acme(tmp_path):
    return client_files(tmp_path)


def hook(tmp_path, acme, reload, **more):
    settings_ = {
        **acme,
        "folder": str(tmp_path / "tls"),
        "names": ["a.example"],
        "uid": 101,
        "project": str(tmp_path),
        "root": str(tmp_path),
        "patience": 0,
        "reload_timeout": 0,
        "reload": reload,
        **more,
    }
    (tmp_path / "settings.json").write_text(json.dumps(settings_))
    command = [sys.executable, "-m", "crisper.proxy.tls_hook", str(tmp_path / "settings.json")]
    env = {**os.environ, "PYTHONPATH": str(Path(tls_hook.__file__).resolve().parents[2])}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_the_hook_takes_what_the_client_brought_and_nginx_reads_it(run_module, tmp_path, acme):
    put(run_module, tmp_path / "tls", **acme)
    certificate, key = issued("a.example")
    bring(acme, certificate, key)
    done = hook(tmp_path, acme, ["touch", "reloaded"])
    assert (done.returncode, done.stdout[:9]) == (0, "in force:")
    assert (tmp_path / "tls" / FRONT).read_text() == certificate + key
    assert (tmp_path / "reloaded").exists()


def test_the_hook_reloads_nginx_again_when_the_first_reload_failed(run_module, tmp_path, acme):
    """Regression guard: the second run said "unchanged", and nginx served the old certificate."""
    put(run_module, tmp_path / "tls", **acme)
    bring(acme, *issued("a.example"))
    assert hook(tmp_path, acme, ["false"]).returncode == 1
    assert hook(tmp_path, acme, ["touch", "reloaded"]).returncode == 0
    assert (tmp_path / "reloaded").exists()


def test_the_hook_refuses_what_is_unfit(run_module, tmp_path, acme):
    put(run_module, tmp_path / "tls", **acme)
    before = (tmp_path / "tls" / FRONT).read_text()
    bring(acme, issued("a.example")[0], issued("a.example")[1])
    done = hook(tmp_path, acme, ["touch", "reloaded"])
    assert done.returncode == 1
    assert "the key does not belong" in done.stderr
    assert (tmp_path / "tls" / FRONT).read_text() == before
    assert not (tmp_path / "reloaded").exists()


def test_the_certificate_from_before_comes_back_when_nginx_refuses_the_new(
    run_module, tmp_path, acme
):
    put(run_module, tmp_path / "tls", **acme)
    before = (tmp_path / "tls" / FRONT).read_text()
    bring(acme, *issued("a.example"))
    refusal = ["sh", "-c", f"echo too weak >&2; exit {tls_hook.REFUSED}"]
    done = hook(tmp_path, acme, refusal, reload_timeout=60)
    assert done.returncode == 1
    assert "from before stays. “too weak”" in done.stderr
    assert (tmp_path / "tls" / FRONT).read_text() == before


def test_the_hook_says_when_nginx_does_not_read_it(tmp_path, acme):
    bring(acme, *issued("a.example"))
    done = hook(tmp_path, acme, ["sh", "-c", "echo no nginx >&2; exit 1"])
    assert done.returncode == 1
    assert "no nginx" in done.stderr
    gone = hook(tmp_path, acme, ["no-such-docker"])
    assert gone.returncode == 1
    assert "not in force" in gone.stderr
    assert "Traceback" not in gone.stderr


def hook_settings(tmp_path, acme, reload):
    hook(tmp_path, acme, ["true"])
    given_ = json.loads((tmp_path / "settings.json").read_text())
    return {**given_, "reload": reload, "patience": 60, "reload_timeout": 60}


@pytest.fixture
def quick(monkeypatch):
    """Pauses as moments at which something else happens: a list of functions, in their order."""
    events: list = []
    real = tls_hook.time.sleep
    monkeypatch.setattr(
        tls_hook.time, "sleep", lambda s: events.pop(0)() if s == tls_hook.PAUSE else real(s)
    )
    return events


def test_an_engine_that_restarts_is_waited_for(tmp_path, acme, quick):
    bring(acme, *issued("a.example"))
    quick += [lambda: None, (tmp_path / "up").touch]
    given_ = hook_settings(tmp_path, acme, ["test", "-e", "up"])
    assert tls_hook.renewed(given_).startswith("in force:")
    assert quick == []


def lock(tmp_path, until):
    (tmp_path / "lock").write_text(json.dumps({"run": "x", "until": until}))


def test_a_renewal_waits_until_a_deploy_has_ended(run_module, tmp_path, acme, quick):
    """Regression guard: the deploy's requests met a certificate that it did not know."""
    put(run_module, tmp_path / "tls", **acme)
    bring(acme, *issued("a.example"))
    given_ = hook_settings(tmp_path, acme, ["true"])
    put_before, brought = (tmp_path / "tls" / FRONT).read_text(), issued("a.example")
    bring(acme, *brought)
    lock(tmp_path, time.time() + 3600)
    during: list[str] = []
    quick += [
        lambda: during.append((tmp_path / "tls" / FRONT).read_text()),
        (tmp_path / "lock").unlink,
    ]
    tls_hook.renewed(given_)
    assert during == [put_before]
    assert (tmp_path / "tls" / FRONT).read_text() == "".join(brought)


@pytest.mark.parametrize("content", ['{"run": "x", "until": 1}', '{"run": "x"}', "half a li", "[]"])
def test_a_lock_that_no_longer_counts_keeps_no_renewal_back(tmp_path, acme, quick, content):
    bring(acme, *issued("a.example"))
    given_ = hook_settings(tmp_path, acme, ["true"])
    (tmp_path / "lock").write_text(content)
    assert tls_hook.renewed(given_).startswith("in force:")


def test_a_deploy_that_never_ends_does_not_cost_the_renewal(tmp_path, acme, quick):
    bring(acme, *issued("a.example"))
    lock(tmp_path, time.time() + 3600)
    assert hook(tmp_path, acme, ["true"], patience=0).stdout.startswith("in force:")


def test_no_deploy_begins_while_nginx_reads_the_new_certificate(tmp_path):
    with (
        tls_hook.between_deploys(tmp_path, 0),
        (tmp_path / ".lock").open("a") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / ".lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
