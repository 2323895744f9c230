"""scripts/audit: what fails, what is told, and that no silent source passes for a clean one."""

from __future__ import annotations

import sys
from datetime import date
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pip._internal.models.index import PyPI

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 11, 21)


def load() -> ModuleType:
    loader = SourceFileLoader("audit", str(ROOT / "scripts/audit"))
    module = module_from_spec(spec_from_loader("audit", loader))
    sys.modules["audit"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


audit = load()


def report(*vulnerabilities: dict) -> dict:
    package = {"name": "jinja2", "version": "2.10", "vulns": list(vulnerabilities)}
    return {"dependencies": [package], "fixes": []}


FOUND = {"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"]}


def test_a_vulnerability_fails_and_tells_the_fix():
    found, told = audit.judge(report(FOUND), {}, TODAY)
    assert found == ["jinja2 2.10: CVE-2019-10906, PYSEC-2019-217; fixed in 2.10.1"]
    assert told == []


@pytest.mark.parametrize(("until", "fails"), [("2026-11-21", 0), ("2026-11-20", 1)])
def test_an_entry_ignores_it_by_any_of_its_names_until_its_day(until, fails):
    entries = audit.ignored(f"# why\n\nCVE-2019-10906 {until} the sandbox is not used\n")
    found, told = audit.judge(report(FOUND), entries, TODAY)
    assert (len(found), len(told)) == (fails, 1 - fails)
    assert until in " ".join(found + told)


@pytest.mark.parametrize("line", ["CVE-1-2", "CVE-1-2 soon it is fine", "CVE-1-2 2026-11-21"])
def test_an_entry_without_day_or_reason_is_refused(line):
    with pytest.raises(ValueError, match="line 1 is"):
        audit.ignored(line)


def test_a_package_that_nobody_knows_is_told():
    skipped = {"dependencies": [{"name": "x", "skip_reason": "not found"}]}
    assert audit.judge(skipped, {}, TODAY) == ([], ["x: not audited: not found"])


@given(
    st.lists(st.tuples(st.from_regex(r"[A-Za-z][a-z0-9-]{0,9}", fullmatch=True), st.integers(0)))
)
def test_every_pin_is_audited(packages):
    text = "# x==1\n-r other.txt\n" + "".join(f"{name}[extra]=={v} ; x\n" for name, v in packages)
    assert audit.pins(text) == sorted({f"{name.lower()}=={v}" for name, v in packages})


def test_all_files_with_pins_are_audited():
    named = {str(path.relative_to(ROOT)) for path in audit.FILES}
    assert {
        "requirements/controller-python3.11.txt",
        "requirements/controller-python3.12.txt",
        "app/requirements-dev.txt",
        "app/requirements.txt",
        "images/qdrant/server/requirements.txt",
        "tests/apps/channels/requirements.txt",
    } <= named


def answering(monkeypatch, answers: dict[str, object]) -> None:
    def answer(_requirements, service):
        if isinstance(answers[service], str):
            raise RuntimeError(answers[service])
        return answers[service]

    monkeypatch.setattr(audit, "ask", answer)


def test_an_index_without_advisories_is_no_source(monkeypatch, capsys):
    """A mirror that answers 404 makes pip-audit skip everything and exit with 0."""
    skipped = {"dependencies": [{"name": "jinja2", "skip_reason": "not found on PyPI"}]}
    answering(
        monkeypatch, {"pypi": skipped, audit.INDEX: "no other", "osv": "name resolution failed"}
    )
    assert audit.main() == 0
    told = capsys.readouterr().out
    assert "NOT AUDITED: no advisory source is reachable" in told
    assert "not found on PyPI" in told
    assert "name resolution failed" in told


def test_the_second_source_is_used_and_its_findings_fail(monkeypatch, capsys):
    answering(monkeypatch, {"pypi": report(), audit.INDEX: "no other", "osv": report(FOUND)})
    assert audit.main() == 1
    told = capsys.readouterr().out
    assert "packages by osv, 1 vulnerabilities" in told
    assert "NOT AUDITED" not in told


def test_pip_audits_own_words_are_kept_when_it_gives_no_report(monkeypatch):
    monkeypatch.setattr(audit.sys, "executable", "/bin/false")
    with pytest.raises(RuntimeError, match="it said nothing"):
        audit.audit(["x==1"], "pypi")


def test_the_ignore_list_of_the_repository_is_readable():
    entries = audit.ignored(audit.IGNORE.read_text())
    assert all(entry.why for entry in entries.values())


def test_a_missing_tool_is_no_missing_source(monkeypatch, capsys):
    monkeypatch.setattr(audit.importlib.util, "find_spec", lambda name: None)
    assert audit.main() == 1
    assert "scripts/setup" in capsys.readouterr().out


def test_an_index_that_passes_advisories_on_is_a_source():
    """PyPI's JSON API through a mirror; one without it answers 404, and nothing is clean then."""
    advisory = {"id": "PYSEC-2019-217", "aliases": ["CVE-2019-10906"], "fixed_in": ["2.10.1"]}
    answers = {
        "/jinja2/2.10/json": {
            "vulnerabilities": [advisory, {"id": "PYSEC-1", "withdrawn": "2020-01-01T00:00:00Z"}]
        },
        "/six/1.17.0/json": {"vulnerabilities": []},
        "/old/1/json": {"info": {}},
        "/mirrored/1/json": None,
    }
    wanted = ["jinja2==2.10", "six==1.17.0", "old==1", "mirrored==1"]
    found, told = audit.judge(audit.from_index(wanted, answers.__getitem__), {}, TODAY)
    assert found == ["jinja2 2.10: CVE-2019-10906, PYSEC-2019-217; fixed in 2.10.1"]
    assert told == [
        f"{name}: not audited: the index tells no advisories of it" for name in ("old", "mirrored")
    ]


def test_an_index_that_does_not_answer_keeps_its_address_to_itself(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@127.0.0.1:9/root/simple/")
    assert audit.index_address() == "http://user:secret@127.0.0.1:9/root/pypi"
    with pytest.raises(RuntimeError, match=r"did not answer \(ConnectionError\)") as failure:
        audit.ask(["jinja2==2.10"], audit.INDEX)
    assert "secret" not in str(failure.value)


def test_pypi_itself_is_not_asked_twice(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", PyPI.simple_url)
    with pytest.raises(RuntimeError, match="no other index than PyPI"):
        audit.index_address()
