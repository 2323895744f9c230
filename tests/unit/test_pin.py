"""Python packages and CI actions are taken by hash; scripts/pin makes the files with the hashes."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


def load():
    loader = importlib.machinery.SourceFileLoader("pin", str(ROOT / "scripts" / "pin"))
    spec = importlib.util.spec_from_loader("pin", loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules["pin"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


pin = load()
LOCKS = [lock.path for lock in pin.LOCKS]
BLOCK = re.compile(
    r"(?P<name>[a-z0-9-]+)==(?P<version>\S+)(?P<sums>( \\\n    --hash=sha256:[0-9a-f]{64})+)\n"
)


def blocks(text: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by package; every line of a lock is a comment, an option or these."""
    rest = BLOCK.sub("", text)
    assert set(rest.splitlines()[2:]) == {"--require-hashes", "--only-binary :all:"}, rest
    return {
        m["name"]: (m["version"], re.findall(r"sha256:(\w+)", m["sums"]))
        for m in BLOCK.finditer(text)
    }


@pytest.mark.parametrize("path", LOCKS)
def test_every_package_is_pinned_by_hash(path):
    found = blocks((ROOT / path).read_text())
    assert len(found) >= 8
    assert all(sums == sorted(set(sums)) for _, sums in found.values())


@pytest.mark.parametrize("lock", pin.LOCKS, ids=LOCKS)
def test_locks_hold_what_their_sources_ask_for(lock):
    found = pin.pins((ROOT / lock.path).read_text())
    for source in lock.sources:
        text = (ROOT / source).read_text()
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name = pin.canonical(re.match(r"[\w.-]+", line)[0])
                assert name in found, f"{source} asks for {name}: run scripts/pin --keep"
        assert pin.pins(text).items() <= found.items(), f"run scripts/pin --keep {lock.path}"


@pytest.mark.parametrize(
    "lock", [lock for lock in pin.LOCKS if lock.agrees_with], ids=lambda lock: lock.path
)
def test_locks_agree_with_what_was_tested(lock):
    """Images run what was tested, and tools give the same answers on every controller."""
    tested = pin.pins((ROOT / lock.agrees_with).read_text())
    found = pin.pins((ROOT / lock.path).read_text())
    apart = {name for name, version in found.items() if tested.get(name) != version}
    assert apart == lock.differs


def test_each_controller_gets_an_ansible_that_its_python_can_run():
    """ansible-core 2.20 and later need Python 3.12; upstream supports 2.20 and later."""
    old, new = (
        pin.pins((ROOT / f"requirements/controller-python3.{minor}.txt").read_text())
        for minor in (11, 12)
    )
    assert old["ansible-core"].startswith("2.19.")
    assert new["ansible-core"].startswith("2.21.")


def test_no_package_is_installed_without_hashes():
    """A `pip install` takes hashes, or a folder without dependencies or index."""
    tracked = subprocess.run(
        ["git", "ls-files", "scripts", "app", "images", "tests/apps", "roles"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    found = 0
    for name in tracked:
        path = ROOT / name
        if path.suffix not in ("", ".sh", ".yml") or not path.is_file():
            continue
        for command in re.findall(
            r"\bpip install\b(?:[^\n\\]|\\\n)*", path.read_text(errors="replace")
        ):
            found += 1
            assert "--require-hashes" in command or "--no-deps --no-index" in command, (
                f"{name}: {command}"
            )
    assert found >= 6


def test_pip_refuses_a_file_that_an_index_hands_out_instead(tmp_path):
    """The attack: an index, a mirror or a proxy has another file of the same name and version."""
    text = (ROOT / "requirements" / "controller-python3.11.txt").read_text()
    version, sums = blocks(text)["idna"]
    wheel = tmp_path / f"idna-{version}-py3-none-any.whl"
    info = f"idna-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("idna/__init__.py", "import os; os.system('id')\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: idna\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    lock = tmp_path / "lock.txt"
    lock.write_text(pin.locked({"idna": version}, {"idna": sums}, ["x.in"]))
    command = [sys.executable, "-m", "pip", "install", "--target", str(tmp_path / "site")]
    command += ["--no-index", "--find-links", str(tmp_path), "--requirement", str(lock)]
    environment = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "site").exists()


def test_actions_of_ci_are_pinned_by_commit_and_read_only():
    workflows = list((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    for path in workflows:
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
        used = [step["uses"] for step in steps if "uses" in step]
        assert used
        assert all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", use) for use in used), used


@pytest.mark.parametrize(
    ("filename", "chosen"),
    [
        ("six-1.17.0-py2.py3-none-any.whl", True),
        ("six-1.17.0.tar.gz", False),
        ("cffi-2.1.1-cp311-cp311-manylinux_2_17_x86_64.whl", True),
        ("cffi-2.1.1-cp313-cp313t-musllinux_1_2_aarch64.whl", True),
        ("cffi-2.1.1-cp314-cp314-macosx_11_0_arm64.whl", True),
        ("cffi-2.1.1-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("cffi-2.1.1-cp313-cp313-win_amd64.whl", False),
        ("cffi-2.1.1-pp311-pypy311_pp73-manylinux_2_17_x86_64.whl", False),
        ("cryptography-50.0.2-cp38-abi3-manylinux_2_28_x86_64.whl", True),
        ("old-1-py2-none-any.whl", False),
    ],
)
def test_only_files_that_pip_may_choose_count(filename, chosen):
    assert pin.may_be_chosen(filename) is chosen
    assert pin.may_be_chosen(filename, (3, 12)) is (chosen and "cp311" not in filename)


def file(filename: str, digest: str = "a" * 64) -> dict:
    return {"filename": filename, "hashes": {"sha256": digest}}


def test_hashes_are_those_of_one_version():
    files = [file("x-1.0-py3-none-any.whl", "1" * 64), file("x-1.0.1-py3-none-any.whl", "2" * 64)]
    assert pin.hashes(files, "x", "1") == ["1" * 64]
    with pytest.raises(SystemExit, match="no wheel of x 2"):
        pin.hashes(files, "x", "2")
    with pytest.raises(SystemExit, match="no wheel of x 1"):
        pin.hashes([{"filename": "x-1-py3-none-any.whl", "hashes": {}}], "x", "1")


@given(
    st.dictionaries(
        st.from_regex(r"[a-z][a-z0-9]{0,5}(-[a-z0-9]{1,5})?", fullmatch=True),
        st.tuples(
            st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,2}", fullmatch=True),
            st.lists(st.from_regex(r"[0-9a-f]{64}", fullmatch=True), min_size=1, max_size=3),
        ),
    )
)
def test_a_lock_reads_back(packages):
    versions = {name: version for name, (version, _) in packages.items()}
    text = pin.locked(versions, {name: sums for name, (_, sums) in packages.items()}, ["x.in"])
    assert pin.pins(text) == versions
    assert blocks(text) == packages


def item(name: str, *requires: str, extras: tuple[str, ...] = ()) -> dict:
    return {"metadata": {"name": name, "requires_dist": list(requires)}, "requested_extras": extras}


@pytest.mark.parametrize(
    ("requirement", "missing"),
    [
        # Debian 12's Python is 3.11.2: redis asks it for async-timeout, and the newest 3.11 not.
        ('async-timeout>=4; python_full_version < "3.11.3"', True),
        ('appnope; platform_system == "Darwin"', True),
        ('tzdata; sys_platform == "win32"', False),
        ('tomli; python_version < "3.11"', False),
        ('hiredis; extra == "hiredis"', False),
        ("known", False),
    ],
)
def test_what_other_pythons_need_is_missed(requirement, missing):
    found = pin.needed_elsewhere({"install": [item("redis", requirement)]}, ["redis", "known"])
    assert found == ([f"redis needs {requirement}"] if missing else [])


def test_what_only_older_pythons_need_is_not_missed_in_a_lock_for_newer_ones():
    report = {"install": [item("redis", 'async-timeout>=4; python_full_version < "3.11.3"')]}
    assert pin.needed_elsewhere(report, ["redis"], (3, 12)) == []


def test_a_python_that_is_new_enough_resolves_a_lock(monkeypatch, tmp_path):
    assert pin.python_for(sys.version_info[:2], str(tmp_path)) == [sys.executable]
    monkeypatch.setattr(pin.shutil, "which", lambda _: None)
    monkeypatch.setattr(pin, "index", lambda: ("https://user:secret@index.test/simple", True))
    command = pin.python_for((3, 99), str(tmp_path))
    assert command[-2:] == [pin.IMAGE, "python3"]
    assert "secret" not in " ".join(command)
    assert f"{tmp_path}:{tmp_path}" in command


def test_the_extras_that_were_asked_for_count():
    report = {"install": [item("celery", 'redis; extra == "redis"', extras=("redis",))]}
    assert pin.needed_elsewhere(report, ["celery"]) == ['celery needs redis; extra == "redis"']


def test_a_file_of_another_origin_is_refused():
    with pytest.raises(SystemExit):
        pin.main(["requirements/audit-ignore.txt"])
