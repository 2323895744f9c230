"""What is sent into a container, and what is made of the answer."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.probes import (
    application,
    drain,
    ledger,
    rollout,
    skew,
    stranded,
    workers,
)
from ansible_collections.crisper.stack.plugins.module_utils.remote import run as remote_run

PROBES = [drain, rollout, skew, stranded, workers]
SENT = [*PROBES, ledger]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package of modules, name -> source, and import one of them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(entry, /, **sources):
        folder = tmp_path / "travels"
        (folder / "deep").mkdir(parents=True)
        for name in ("", "deep/"):
            (folder / name / "__init__.py").write_text('"""A package."""\n')
        for name, source in sources.items():
            text = "from __future__ import annotations\n" + source
            (folder / (name.replace("__", "/") + ".py")).write_text(text)
        return importlib.import_module(f"travels.{entry}")

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] == "travels"]:
        del sys.modules[name]


ANSWERS = """import json
def main(request, marker):
    from .late import LATE
    print("noise")
    sent = request["text"].encode().hex()
    answer = {"r": request, "v": [VALUE, deeper.VALUE, LATE], "sent": sent}
    print(marker + json.dumps(answer))
"""


def test_what_a_probe_imports_travels_with_it(package):
    entry = package(
        "entry",
        entry="from .value import VALUE\nfrom .deep import deeper\n" + ANSWERS,
        value="VALUE = 'ü'\n",
        # Nobody else is sent, in whatever order files are found.
        another="raise AssertionError\n",
        # One that is imported inside a function may import the entry again.
        late="from .deep.deeper import VALUE\nLATE = VALUE + 1\n",
        deep__deeper="def again():\n    from .. import entry\n    return entry\nVALUE = 1\n",
    )
    assert [module.__name__ for module in remote_run.closure(entry)] == [
        *("travels.value", "travels.deep.deeper", "travels.late", "travels.entry")
    ]
    nasty = {"text": "'''\"\\ \n {braces}", "none": None, "list": [1.5, True]}
    answer = remote_run.run([sys.executable, "-"], entry, nasty, 20)
    shown = {**nasty, "text": nasty["text"].replace("\n", "\\n")}
    assert answer == {"r": shown, "v": ["ü", 1, 2], "sent": nasty["text"].encode().hex()}


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__.rpartition(".")[2])
def test_a_probe_answers_where_nothing_is_installed(probe):
    """All that a probe needs is sent, and it ends with an answer whatever the application is."""
    request = {"app": "nobody's", "import_timeout": 20}
    reply = remote_run.run([sys.executable, "-I", "-S", "-"], probe, request, 20)
    assert reply["problem"] == "app_not_importable"
    assert "celery" in reply["error"]


def test_an_application_that_hangs_ends_with_an_answer(tmp_path):
    (tmp_path / "celery").mkdir()
    (tmp_path / "celery/__init__.py").write_text("import time\ntime.sleep(60)\n")
    request = {"app": "hangs", "import_timeout": 1}
    reply = remote_run.run([sys.executable, "-S", "-"], workers, request, 20, str(tmp_path))
    assert reply["problem"] == "app_not_importable"
    assert "not imported in time" in reply["error"]


def test_what_an_application_prints_and_its_secrets_stay_there(tmp_path):
    (tmp_path / "celery").mkdir()
    source = "import os\nprint('noise')\nraise SystemExit(os.environ['DB_PASSWORD'])\n"
    (tmp_path / "celery/__init__.py").write_text(source)
    command = ["env", "DB_PASSWORD=very-secret", sys.executable, "-S", "-c"]
    request = {"app": "exits", "import_timeout": 20}
    source = remote_run.program(skew, request)
    done = subprocess.run(
        [*command, source], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    reply = remote_run.parse(done.stdout)
    assert (reply["problem"], done.returncode) == ("app_not_importable", 0)
    assert "SystemExit: ***" in reply["error"]
    assert "noise" not in done.stdout
    assert "noise" in done.stderr


SENT_FILES = sorted({Path(m.__file__) for probe in SENT for m in remote_run.closure(probe)})


@pytest.mark.parametrize("path", SENT_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_sources_run_on_the_containers_older_python(path):
    ast.parse(path.read_text(), feature_version=(3, 8))


@pytest.mark.parametrize("path", SENT_FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_relative_import_is_found(path):
    """They are looked for line by line: parsing all of it took 12 ms for each program."""
    source = path.read_text()
    parsed = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    found = remote_run.relative_imports(source)
    assert sorted(map(ast.unparse, parsed)) == sorted(map(ast.unparse, found))


def test_the_program_of_the_ledger_fits_into_one_argument():
    """Linux takes no longer one. All other programs are sent on standard input."""
    assert len(remote_run.program(ledger, {}).encode()) < 128 * 1024 - 20_000


@pytest.mark.parametrize(
    ("code", "stderr", "problem"),
    [
        (1, "Error response from daemon: No such container: x", "container_not_running"),
        (1, "Error response from daemon: container 0f is not running", "container_not_running"),
        (1, "no such service: celery-worker", "container_not_running"),
        (1, "Cannot connect to the Docker daemon at unix:///x", "docker_unavailable"),
        (127, 'exec: "python": executable file not found in $PATH', "app_not_importable"),
        (137, "", "malformed_reply"),
        (0, "", "malformed_reply"),
    ],
)
def test_what_a_failed_command_means(code, stderr, problem):
    assert remote_run.trouble(code, stderr)[0] == problem


def test_no_answer_is_an_error():
    for command, problem in (
        (["/bin/false"], "malformed_reply"),
        (["/nowhere/docker"], "docker_unavailable"),
    ):
        with pytest.raises(remote_run.RemoteError) as caught:
            remote_run.run(command, drain, {}, 5)
        assert caught.value.problem == problem
    with pytest.raises(remote_run.RemoteError, match="within 1 s"):
        remote_run.run(["sleep", "20"], drain, {}, 1)


def test_an_application_that_ends_the_probe_shows_no_secret(tmp_path, monkeypatch):
    """Regression: the last line of its errors stood in plans and summaries as it was."""
    (tmp_path / "leaking.py").write_text(
        "import os, sys\n"
        "print('FATAL', os.environ['DATABASE_URL'], os.environ['SECRET_KEY'], file=sys.stderr)\n"
        "sys.stderr.flush(); os._exit(3)\n"
    )
    monkeypatch.chdir(tmp_path)
    environment = {"DATABASE_URL": "postgresql://shop:hunter22@db/shop", "SECRET_KEY": "top-secret"}
    request = {"app": "leaking", "settings": [], "import_timeout": 20, "environment": environment}
    with pytest.raises(remote_run.RemoteError, match="exit code 3: FATAL") as caught:
        remote_run.run([sys.executable, "-"], application, request, 30)
    told = f"{caught.value} {caught.value.stderr}"
    assert not [secret for secret in ("hunter22", "top-secret") if secret in told]


@pytest.mark.parametrize("reply", ["", "{", "[1]", "X" + remote_run.MARKER + "{}"])
def test_half_an_answer_is_none(reply):
    assert remote_run.parse(remote_run.MARKER * (reply[:1] != "X") + reply) is None


def test_a_question_without_an_answer_has_its_problem():
    assert remote_run.ask(["/nowhere/docker"], drain, {}, 5)["problem"] == "docker_unavailable"
