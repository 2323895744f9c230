"""The modules that look at a host and configure its engine, run for real on this machine."""

import json
import re
import stat
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import apt_key_pinned
import docker_daemon_config
import docker_engine_facts
import host_check
import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from signing_key import FINGERPRINT, KEY

MODULES = [apt_key_pinned, docker_daemon_config, docker_engine_facts, host_check]


def run(module, capsys, check=False, diff=False, **arguments):
    """The module's answer and whether it failed."""
    with (
        patch_module_args({"_ansible_check_mode": check, "_ansible_diff": diff, **arguments}),
        pytest.raises(SystemExit) as end,
    ):
        module.main()
    return json.loads(capsys.readouterr().out), end.value.code != 0


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_documentation_is_the_argument_spec(module):
    documented = yaml.safe_load(module.DOCUMENTATION)["options"]

    def compare(options, spec):
        assert set(options) == set(spec)
        for name, option in options.items():
            assert option["description"]
            for key in ("type", "elements", "choices", "default", "required"):
                assert option.get(key) == spec[name].get(key), f"{name}: {key}"
            if "suboptions" in option:
                compare(option["suboptions"], spec[name]["options"])

    compare(documented, module.SPEC)
    assert yaml.safe_load(module.EXAMPLES)
    assert yaml.safe_load(module.RETURN)


@pytest.mark.parametrize("name", [module.__name__ for module in MODULES])
def test_targets_python_of_3_8_can_read_it(name):
    path = sys.modules[name].__file__
    with open(path) as file:
        compile_as_old(file.read(), path)


def compile_as_old(text, path):
    import ast

    ast.parse(text, path, feature_version=(3, 8))


# --- docker_daemon_config ---------------------------------------------------------------------


@pytest.fixture
def dockerd(tmp_path, monkeypatch):
    """A dockerd that refuses the key "bad"; whether an engine is installed must not matter."""
    program = tmp_path / "dockerd"
    program.write_text('#!/bin/sh\nif grep -q \'"bad"\' "$3"; then echo "no bad" >&2; exit 1; fi\n')
    program.chmod(0o755)
    monkeypatch.setattr(docker_daemon_config.shutil, "which", lambda *_a, **_k: str(program))
    return program


def test_a_first_configuration_is_written(dockerd, tmp_path, capsys):
    path = tmp_path / "etc" / "daemon.json"
    answer, failed = run(
        docker_daemon_config, capsys, diff=True, path=str(path), config={"log-driver": "json-file"}
    )
    assert not failed
    assert answer["changed"]
    assert answer["validated"]
    assert (answer["action"], answer["restart_keys"]) == ("restart", ["log-driver"])
    assert json.loads(path.read_text()) == {"log-driver": "json-file"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_second_run_changes_nothing(dockerd, tmp_path, capsys):
    path = tmp_path / "daemon.json"
    path.write_text('{"live-restore":true,"foreign":{"a":1}}')
    before = path.read_text()
    answer, _failed = run(
        docker_daemon_config, capsys, path=str(path), config={"live-restore": True}
    )
    assert not answer["changed"]
    assert answer["action"] == "none"
    assert path.read_text() == before


def test_check_mode_shows_and_writes_nothing(dockerd, tmp_path, capsys):
    path = tmp_path / "daemon.json"
    path.write_text('{"foreign": 1}')
    answer, _failed = run(
        docker_daemon_config, capsys, check=True, diff=True, path=str(path), config={"debug": True}
    )
    assert answer["changed"]
    assert answer["action"] == "reload"
    assert json.loads(answer["diff"]["after"]) == {"debug": True, "foreign": 1}
    assert path.read_text() == '{"foreign": 1}'


def test_what_dockerd_refuses_is_not_written(dockerd, tmp_path, capsys):
    path = tmp_path / "daemon.json"
    path.write_text("{}")
    answer, failed = run(docker_daemon_config, capsys, path=str(path), config={"bad": 1})
    assert failed
    assert "no bad" in answer["msg"]
    assert "docker_daemon_options" in answer["msg"]
    assert path.read_text() == "{}"


@pytest.mark.parametrize(("text", "says"), [("{", "no valid JSON"), ("[]", "no JSON object")])
def test_a_broken_file_is_not_overwritten(dockerd, tmp_path, capsys, text, says):
    path = tmp_path / "daemon.json"
    path.write_text(text)
    answer, failed = run(docker_daemon_config, capsys, path=str(path), config={"debug": True})
    assert failed
    assert says in answer["msg"]
    assert str(path) in answer["msg"]
    assert path.read_text() == text


# --- apt_key_pinned ---------------------------------------------------------------------------


@pytest.fixture
def key_url():
    """A server that has the key at /gpg."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            found = self.path == "/gpg"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(KEY if found else b"")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_expected_key_is_installed_once(key_url, tmp_path, capsys):
    dest = tmp_path / "keyrings" / "docker.asc"
    spaced = " ".join(re.findall("....", FINGERPRINT.lower()))
    arguments = {"url": f"{key_url}/gpg", "fingerprint": spaced, "dest": str(dest)}
    answer, _failed = run(apt_key_pinned, capsys, check=True, **arguments)
    assert answer["changed"]
    assert not dest.exists()
    assert run(apt_key_pinned, capsys, **arguments)[0]["changed"]
    assert dest.read_bytes() == KEY
    arguments["url"] = "http://127.0.0.1:9/gone"  # not fetched again
    assert not run(apt_key_pinned, capsys, **arguments)[0]["changed"]


@pytest.mark.parametrize(
    ("path", "fingerprint", "says"),
    [
        ("/gpg", "0" * 40, [FINGERPRINT, "0" * 40, "not installed"]),
        ("/none", FINGERPRINT, ["404"]),
    ],
)
def test_another_key_is_refused(key_url, tmp_path, capsys, path, fingerprint, says):
    dest = tmp_path / "docker.asc"
    answer, failed = run(
        apt_key_pinned, capsys, url=key_url + path, fingerprint=fingerprint, dest=str(dest)
    )
    assert failed
    assert not dest.exists()
    for text in says:
        assert text in answer["msg"]


# --- The two that only look -------------------------------------------------------------------


def test_engine_facts_of_this_machine(capsys):
    answer, failed = run(
        docker_engine_facts, capsys, check=True, source="present", distro_packages={"trixie": []}
    )
    assert not failed
    assert not answer["changed"]
    assert answer["source"] == "present"
    assert not answer["install"]
    assert bool(answer["engine"]["version"]) is not bool(answer["problems"])


def test_host_check_names_who_holds_a_port(key_url, capsys):
    port = int(key_url.rpartition(":")[2])
    answer, failed = run(
        host_check,
        capsys,
        check=True,
        paths=["/nowhere/yet"],
        min_disk_gb=0,
        min_inodes=0,
        ports=[{"port": port, "address": "127.0.0.1"}],
        supported_os={},
        registries=[key_url.removeprefix("http://") + "/x:1"],
        timeout=3,
    )
    assert not failed
    assert not answer["changed"]
    checks = {finding["check"]: finding for finding in answer["findings"]}
    assert "os" in checks
    assert f"(pid {own_pid()})" in checks["port"]["message"]
    assert "reach" in checks  # it speaks no TLS
    assert answer["host"]["filesystems"][0]["mount"] == "/"


def own_pid():
    return subprocess.os.getpid()
