"""Sets on the disk: whole or not there, refused when damaged, under the lock, through a cipher."""

from __future__ import annotations

import io
import json
import stat
import subprocess

import backup_set
import pytest
from ansible.module_utils import crisper_backup_data, crisper_backup_set, crisper_backup_timer
from ansible.module_utils.crisper_backup import BackupError
from ansible.module_utils.crisper_backup_cipher import opened, written
from ansible.module_utils.crisper_backup_set import Settings, check, copy_away, expire, make
from ansible.module_utils.crisper_journal import Journal
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

RELEASE = "20261119t080000z-99887766"
KEY = "k" * 43
# Stands for age: what it says is told apart from what went in, and a wrong key is refused.
AGE = """#!/bin/sh
grep -q right "$3" || { echo "no identity matched" >&2; exit 1; }
case $1 in --encrypt) base64 ;; --decrypt) base64 -d ;; esac
"""


@pytest.fixture
def stack(tmp_path, monkeypatch):
    """A stack with a current release, whose services hand out their names."""
    release = tmp_path / "releases" / RELEASE
    release.mkdir(parents=True)
    (release / "manifest.json").write_text(json.dumps({"id": RELEASE}))
    (tmp_path / "current").symlink_to(f"releases/{RELEASE}")
    (tmp_path / "secrets.json").write_text(json.dumps({"backup_key": KEY}))
    monkeypatch.setattr(
        crisper_backup_set, "services", lambda _: {"postgres": "p", "redis": "r", "qdrant": "q"}
    )
    monkeypatch.setattr(crisper_backup_data.Docker, "version", lambda *_: "1.2.3")

    def dump(service):
        def write(_docker, _container, target):
            target.write(service.encode())
            return {"rows": {"t": 1}}

        return write

    monkeypatch.setattr(crisper_backup_set, "DUMP", {n: dump(n) for n in crisper_backup_set.DUMP})
    return tmp_path


@pytest.fixture
def age(tmp_path, monkeypatch):
    """A stand-in for age on the path, a right key and a wrong one."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "age").write_text(AGE)
    (tools / "age").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    for name in ("right", "wrong"):
        (tools / name).write_text(name)
    return tools


def settings(root, **changes):
    return Settings(root=root, project="demo", who="ops", **changes)


def quiet(_step):
    return None


def test_a_set_is_whole_private_and_told(stack):
    steps = []
    made = make(settings(stack), steps.append)
    folder = stack / "backups" / made["set"]
    assert made["path"] == str(folder)
    assert made["release"] == RELEASE
    assert list(made["parts"]) == ["redis", "postgres", "qdrant"]
    assert steps == ["back up redis", "back up postgres", "back up qdrant"]
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder)
    assert done.returncode == 0
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert check(settings(stack), "")["set"] == made["set"]


def test_what_fails_leaves_no_set_and_no_draft(stack, monkeypatch):
    def broken(*_):
        raise BackupError("no room")

    monkeypatch.setitem(crisper_backup_set.DUMP, "qdrant", broken)
    with pytest.raises(BackupError, match="no room"):
        make(settings(stack), quiet)
    assert list((stack / "backups").iterdir()) == []


def test_what_a_killed_backup_left_goes_with_the_next(stack):
    (stack / "backups" / ".draft-20260101t000000z").mkdir(parents=True)
    made = make(settings(stack), quiet)
    assert [path.name for path in (stack / "backups").iterdir()] == [made["set"]]


def test_damage_is_refused_with_the_file(stack):
    made = make(settings(stack), quiet)
    (stack / "backups" / made["set"] / "qdrant.jsonl.gz").write_bytes(b"qdranT")
    with pytest.raises(BackupError, match=r"checksum of qdrant\.jsonl\.gz .* Nothing was touched"):
        check(settings(stack), made["set"])


def test_a_set_that_is_not_there_is_told_with_those_that_are(stack):
    with pytest.raises(BackupError, match=r"no backup set at all .* There: none"):
        check(settings(stack), "")
    made = make(settings(stack), quiet)
    with pytest.raises(BackupError, match=f"no backup set x .* There: {made['set']}"):
        check(settings(stack), "x")


def test_dumps_before_migrations_are_no_sets_and_stay(stack):
    make(settings(stack), quiet)
    dump = stack / "backups" / f"{RELEASE}.dump"
    dump.write_text("of role database")
    assert expire(settings(stack, keep=1)) == []
    assert dump.exists()


def test_an_encrypted_set_needs_its_key(stack, age):
    made = make(settings(stack, encryption="age", recipient=str(age / "right")), quiet)
    folder = stack / "backups" / made["set"]
    names = {path.name for path in folder.iterdir()}
    assert {"postgres.dump.age", "release.json.age", "manifest.json", "SHA256SUMS"} < names
    assert b"postgres" not in (folder / "postgres.dump.age").read_bytes()
    assert check(settings(stack), "", str(age / "right"))["encryption"] == "age"
    with pytest.raises(BackupError, match=r"release\.json\.age cannot be decrypted .* no identity"):
        check(settings(stack), "", str(age / "wrong"))
    with pytest.raises(BackupError, match="key file for age is not there: none was given"):
        check(settings(stack), "")


def test_a_refused_recipient_leaves_no_set(stack, age):
    with pytest.raises(BackupError, match=r"age could not encrypt .* no identity matched"):
        make(settings(stack, encryption="age", recipient=str(age / "wrong")), quiet)
    assert list((stack / "backups").iterdir()) == []


def test_a_missing_tool_is_told_with_its_package(stack, tmp_path, monkeypatch):
    (tmp_path / "key").write_text("x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(BackupError, match=r"gpg is not installed .* apt-get install gnupg"),
        written(tmp_path / "file", "gpg", str(tmp_path / "key")),
    ):
        pass


def test_a_reader_that_fails_for_its_own_reasons_is_not_blamed_on_the_key(tmp_path, age):
    path = tmp_path / "file"
    with written(path, "age", str(age / "right")) as stream:
        stream.write(b"x" * 1_000_000)

    def fed():
        with opened(path, "age", str(age / "right")) as stream:
            stream.read(10)
            raise BackupError("the database said no")

    with pytest.raises(BackupError, match="the database said no"):
        fed()


def test_a_copy_lands_where_it_should_and_its_failure_is_told(stack, tmp_path, monkeypatch):
    tools = tmp_path / "copiers"
    tools.mkdir()
    (tools / "rsync").write_text('#!/bin/sh\n[ "$2" = --quiet ] && cp -r "$3" "$4"\n')
    (tools / "rsync").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    made = make(settings(stack), quiet)["set"]
    there = tmp_path / "elsewhere"
    there.mkdir()
    remote = {"remote_tool": "rsync", "remote_target": f"{there}/"}
    copy_away(settings(stack, **remote, remote_options=["--quiet"]), made)
    assert (there / made / "manifest.json").is_file()
    with pytest.raises(BackupError, match=f"The set {made} was made, but not copied to {there}"):
        copy_away(settings(stack, **remote, remote_options=["--loud"]), made)


# --- the timer ---
def timer(stack, **changes):
    given = {"root": str(stack), "project": "demo", "who": "backup timer", "keep": 1, **changes}
    return crisper_backup_timer.back_up(given, patience=0)


def test_the_timer_makes_a_set_and_gives_the_lock_back(stack):
    told = timer(stack)
    assert str(stack / "backups") in told
    entries = Journal(stack, "x").entries()
    assert (entries[0]["step"], entries[0]["purpose"]) == ("begin", "backup")
    assert (entries[-1]["step"], entries[-1]["result"]) == ("end", "done")
    assert not (stack / "lock").exists()


def test_the_timer_does_not_act_while_somebody_deploys(stack):
    owner = {"who": "ops", "controller": "laptop", "process": "1@2", "purpose": "deploy"}
    assert Journal(stack, "theirs").acquire(owner) == {}
    with pytest.raises(BackupError, match="deploy theirs of ops has had the stack"):
        timer(stack)
    assert Journal(stack, "x").lock()["run"] == "theirs"
    assert not (stack / "backups").exists()


def test_a_timer_that_fails_says_so_in_the_journal(stack, monkeypatch):
    def broken(*_):
        raise BackupError("no room")

    monkeypatch.setitem(crisper_backup_set.DUMP, "redis", broken)
    with pytest.raises(BackupError, match="no room"):
        timer(stack)
    assert Journal(stack, "x").entries()[-1]["result"] == "failed"
    assert not (stack / "lock").exists()


# --- the module ---
def test_the_module_tells_that_nothing_is_deployed(run_module, tmp_path):
    result = run_module(backup_set, root=str(tmp_path), project="demo")
    assert result["failed"]
    assert "deploy first" in result["msg"]


def test_the_module_plans_without_touching(run_module, stack):
    result = run_module(backup_set, check_mode=True, root=str(stack), project="demo")
    assert result["changed"]
    assert not (stack / "backups").exists()


# --- Qdrant ---
class FakeQdrant:
    """What an export asks of Qdrant, in memory; pages are short."""

    def __init__(self, collections):
        self.collections = collections
        self.aliases = []

    def names(self):
        return sorted(self.collections)

    def ask(self, method, path, body=None, missing=None):
        if path == "/aliases":
            return {"aliases": self.aliases}
        name = path.split("/")[2]
        if (method, path) == ("POST", "/collections/aliases"):
            self.aliases += [action["create_alias"] for action in body["actions"]]
        elif method == "DELETE":
            del self.collections[name]
        elif method == "PUT" and path.endswith("/index?wait=true"):
            self.collections[name]["indexes"][body["field_name"]] = body["field_schema"]
        elif method == "PUT" and path.endswith("/points?wait=true"):
            self.collections[name]["points"] += body["points"]
        elif method == "PUT":
            self.collections[name] = {"request": body, "indexes": {}, "points": []}
        elif path.endswith("/scroll"):
            begin = body.get("offset") or 0
            points = self.collections[name]["points"]
            following = begin + 2 if begin + 2 < len(points) else None
            return {"points": points[begin : begin + 2], "next_page_offset": following}
        else:
            found = self.collections[name]
            schema = {field: {"data_type": kind} for field, kind in found["indexes"].items()}
            return {"config": {"params": found["request"]}, "payload_schema": schema}
        return True


POINTS = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(0, 2**64 - 1),
            "vector": st.lists(st.floats(-1, 1), min_size=2, max_size=2),
            "payload": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
        }
    ),
    max_size=7,
)


# A busy machine is no failure.
@examples(deadline=None)
@given(st.dictionaries(st.sampled_from(["items", "notes"]), POINTS))
def test_an_export_of_qdrant_reads_back_as_it_was(collections):
    request = {"vectors": {"size": 2, "distance": "Cosine"}}
    theirs = {
        name: {"request": request, "indexes": {"kind": "keyword"}, "points": points}
        for name, points in collections.items()
    }
    server = FakeQdrant(theirs)
    server.aliases = [{"alias_name": "now", "collection_name": "items"}]
    other = FakeQdrant({"left": {"request": {}, "indexes": {}, "points": []}})
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crisper_backup_data, "Qdrant", lambda *_: server)
        told = crisper_backup_data.dump_qdrant(None, "", stream)
        stream.seek(0)
        patch.setattr(crisper_backup_data, "Qdrant", lambda *_: other)
        crisper_backup_data.restore_qdrant(None, "", stream)
    assert told == {"vectors": {name: len(points) for name, points in collections.items()}}
    assert other.collections == theirs
    assert other.aliases == server.aliases


def test_an_export_of_qdrant_that_breaks_off_is_told():
    server = FakeQdrant({"items": {"request": {}, "indexes": {}, "points": []}})
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(crisper_backup_data, "Qdrant", lambda *_: server)
        crisper_backup_data.dump_qdrant(None, "", stream)
        half = io.BytesIO(stream.getvalue()[:-12])
        with pytest.raises((BackupError, EOFError)):
            crisper_backup_data.restore_qdrant(None, "", half)


def test_a_collection_is_made_again_with_what_was_set():
    info = {
        "config": {
            "params": {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 1},
            "hnsw_config": {"m": 16},
            "optimizer_config": {"flush_interval_sec": 5},
            "wal_config": {"wal_capacity_mb": 32},
            "quantization_config": None,
            "strict_mode_config": {},
        }
    }
    assert crisper_backup_data.collection_request(info) == {
        "vectors": {"size": 2, "distance": "Dot"},
        "shard_number": 1,
        "hnsw_config": {"m": 16},
        "optimizers_config": {"flush_interval_sec": 5},
        "wal_config": {"wal_capacity_mb": 32},
    }


@pytest.mark.parametrize(
    ("schema", "request_"),
    [
        ({"data_type": "keyword", "points": 3}, "keyword"),
        (
            {"data_type": "integer", "params": {"type": "integer", "lookup": True}},
            {"type": "integer", "lookup": True},
        ),
    ],
)
def test_an_index_is_made_again_as_it_was(schema, request_):
    assert crisper_backup_data.index_request(schema) == request_
