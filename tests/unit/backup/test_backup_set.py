"""Sets on the disk: whole or not there, refused when damaged, under the lock, through a cipher."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import tarfile

import backup_set
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import set as backup_set_module
from ansible_collections.crisper.stack.plugins.module_utils.backup import timer as backup_timer
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends import (
    postgres,
    psql,
    qdrant,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.cipher import (
    measured,
    opened,
    written,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.restore_mark import (
    read_mark,
    refusal,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import (
    Settings,
    UntouchedError,
    check,
    copy_away,
    expire,
    make,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.signature import (
    SIGNATURE,
    key_name,
    signed,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker import exec as docker_exec
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
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
    (tmp_path / "secrets.json").write_text(json.dumps({"backup_signing_key": KEY}))
    monkeypatch.setattr(
        backup_set_module, "services", lambda _: {"postgres": "p", "redis": "r", "qdrant": "q"}
    )
    monkeypatch.setattr(backup_set_module, "service_version", lambda *_: "1.2.3")

    def dump(service):
        def write(_docker, _container, target):
            target.write(service.encode())
            return {"rows": {"t": 1}}

        return write

    monkeypatch.setattr(backup_set_module, "DUMP", {n: dump(n) for n in backup_set_module.DUMP})
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

    monkeypatch.setitem(backup_set_module.DUMP, "qdrant", broken)
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
    return backup_timer.back_up(given, patience=0)


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

    monkeypatch.setitem(backup_set_module.DUMP, "redis", broken)
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

    received, until, timeout = 0, float("inf"), 60

    def __init__(self, collections):
        self.collections = collections
        self.aliases = []

    def names(self):
        return sorted(self.collections)

    def ask(self, method, path, body=None, missing=None, most=0):
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
        patch.setattr(qdrant, "Qdrant", lambda *_: server)
        told = qdrant.dump_qdrant(None, "", stream)
        stream.seek(0)
        patch.setattr(qdrant, "Qdrant", lambda *_: other)
        qdrant.restore_qdrant(None, "", stream)
    assert told == {"vectors": {name: len(points) for name, points in collections.items()}}
    assert other.collections == theirs
    assert other.aliases == server.aliases


def test_an_export_of_qdrant_that_breaks_off_is_told():
    server = FakeQdrant({"items": {"request": {}, "indexes": {}, "points": []}})
    stream = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(qdrant, "Qdrant", lambda *_: server)
        qdrant.dump_qdrant(None, "", stream)
        half = io.BytesIO(stream.getvalue()[:-12])
        with pytest.raises((BackupError, EOFError)):
            qdrant.restore_qdrant(None, "", half)


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
    assert qdrant.collection_request(info) == {
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
    assert qdrant.index_request(schema) == request_


# --- whose set it is ---
def resigned(folder, key=KEY, **changes):
    """Alter the manifest of a set and write every checksum anew; with a key, its signature too."""
    found = json.loads((folder / "manifest.json").read_text()) | changes
    for name in found["files"]:
        size, digest = measured(folder / name)
        found["files"][name] = {"bytes": size, "sha256": digest}
    content = json.dumps(found).encode()
    (folder / "manifest.json").write_bytes(content)
    if key:
        (folder / SIGNATURE).write_bytes(signed(content, key))


@pytest.fixture
def made(stack):
    """The folder of a set that this stack has made."""
    return stack / "backups" / make(settings(stack), quiet)["set"]


def refused(stack, *said, foreign=False, **changes):
    with pytest.raises(BackupError) as caught:
        check(settings(stack, **changes), "", accept_foreign=foreign)
    assert [text for text in (*said, "Nothing was touched") if text not in str(caught.value)] == []


def test_a_set_of_this_stack_is_signed_and_read(stack, made):
    assert (made / SIGNATURE).read_bytes() == signed((made / "manifest.json").read_bytes(), KEY)
    assert check(settings(stack), "")["foreign"] == ""


def test_a_part_that_was_altered_with_all_checksums_is_refused(stack, made):
    """The attack: whoever alters a part writes its checksums anew, in both files."""
    (made / "postgres.dump").write_bytes(b"DROP TABLE items")
    resigned(made, key="")
    told = (
        f"The set {made.name} of demo, made ",
        "not the one that was signed with this stack's key",
    )
    refused(stack, *told)
    refused(stack, *told, foreign=True)  # nobody makes such a set by mistake


def test_a_set_without_a_signature_is_refused_unless_told(stack, made):
    (made / SIGNATURE).unlink()
    refused(stack, f"The set {made.name} of demo, made ", "has no signature", "-e foreign=true")
    taken = check(settings(stack), "", accept_foreign=True)
    assert "has no signature" in taken["foreign"]


def test_a_set_of_another_key_is_refused_unless_that_key_is_given(stack, made, tmp_path):
    resigned(made, key="other" * 8)
    refused(stack, f"signed with the key {key_name('other' * 8)}", f"this stack is {key_name(KEY)}")
    assert "signed with the key" in check(settings(stack), "", accept_foreign=True)["foreign"]
    theirs = tmp_path / "old-secrets.json"
    theirs.write_text(json.dumps({"backup_signing_key": "other" * 8, "secret_key": "x"}))
    assert check(settings(stack, key_file=str(theirs)), "")["foreign"] == ""


def test_a_stack_that_has_no_key_yet_says_so(stack, made):
    (stack / "secrets.json").write_text("{}")
    refused(stack, "and this stack has none", "-e signing_key=<file>")
    with pytest.raises(BackupError, match=r"secrets\.json has no backup_signing_key"):
        make(settings(stack), quiet)
    (stack / "secrets.json").unlink()
    with pytest.raises(BackupError, match=r"key that signs backup sets cannot be read"):
        make(settings(stack), quiet)
    assert [path.name for path in (stack / "backups").iterdir()] == [made.name]


def test_a_set_of_another_stack_with_the_same_key_is_refused_unless_told(stack, made):
    resigned(made, stack="shop")
    refused(stack, f"The set {made.name} of shop, made ", "is not a set of demo")
    assert check(settings(stack), "", accept_foreign=True)["foreign"]


def test_an_old_set_under_a_new_name_is_refused(stack, made):
    """The attack: the newest set is taken, and an old one with its signature was named so."""
    made.rename(made.with_name("20991231t000000z"))
    said = f"The folder 20991231t000000z holds another set: {made.name} of demo, made 2"
    refused(stack, said)
    refused(stack, said, foreign=True)


def test_parts_of_two_sets_are_not_mixed(stack, made, monkeypatch):
    """Both sets are this stack's, and each part has been signed with one of them."""
    monkeypatch.setattr(backup_set_module, "set_id", lambda _: "20991231t000000z")
    monkeypatch.setitem(backup_set_module.DUMP, "redis", lambda *_: _[2].write(b"now") and {})
    newer = stack / "backups" / make(settings(stack), quiet)["set"]
    (newer / "redis.rdb").write_bytes((made / "redis.rdb").read_bytes())
    refused(stack, "redis.rdb has 5 bytes, 3 expected")
    for name in ("manifest.json", "SHA256SUMS", SIGNATURE):
        (newer / name).write_bytes((made / name).read_bytes())
    refused(stack, "holds another set")


def test_swapped_parts_are_told(stack, made):
    one, other = made / "redis.rdb", made / "qdrant.jsonl.gz"
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    refused(stack, "redis.rdb holds what qdrant.jsonl.gz has to hold: they were swapped")


@pytest.mark.parametrize("name", ["manifest.json", SIGNATURE, "redis.rdb"])
def test_what_is_no_regular_file_is_never_opened(stack, made, name):
    """A named pipe would hang the check, with the stack's lock."""
    (made / name).unlink()
    os.mkfifo(made / name)
    refused(stack, "no regular file")


def test_a_hostile_archive_is_refused_before_anything_is_replaced(stack, made):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as writer:
        info = tarfile.TarInfo("../../etc/cron.d/evil")
        info.size = 4
        writer.addfile(info, io.BytesIO(b"evil"))
    (made / "uploads.tar.gz").write_bytes(archive.getvalue())
    found = json.loads((made / "manifest.json").read_text())
    found["files"]["uploads.tar.gz"] = {}
    part = {"file": "uploads.tar.gz", "version": "1", "uploads": {"files": 1, "bytes": 4}}
    resigned(made, parts=found["parts"] | {"uploads": part}, files=found["files"])
    refused(stack, "uploads.tar.gz: the name '../../etc/cron.d/evil' leads out of the folder")


# --- a restore that does not get to its end ---
class Services:
    """Data services in memory, and what goes wrong in which of them."""

    def __init__(self, monkeypatch):
        self.data = {}
        self.fails = {}
        self.oid = 1
        monkeypatch.setattr(backup_set_module, "_restore", self.restore)
        monkeypatch.setattr(backup_set_module, "_schema", lambda *_: str(self.oid))
        monkeypatch.setattr(psql, "end_postgres_sessions", lambda *_: True)
        monkeypatch.setattr(postgres, "has_postgres_database", lambda *_: self.oid > 0)
        monkeypatch.setattr(postgres, "make_postgres_database", self.make_database)
        monkeypatch.setattr(
            backup_set_module, "STATE", {"postgres": lambda *_: {"rows": {"t": self.rows}}}
        )
        self.rows = 1

    def make_database(self, *_):
        if problem := self.fails.get("database"):
            raise problem
        self.oid = 7

    def restore(self, _settings, _running, manifest, _identity, service):
        if problem := self.fails.get(service):
            raise problem
        self.oid += service == "postgres"
        self.data[service] = manifest["set"]
        return {}


@pytest.fixture
def data_services(monkeypatch):
    return Services(monkeypatch)


def put_back(stack, **changes):
    manifest = check(settings(stack), "")
    return backup_set_module.restore(settings(stack, **changes), manifest, "", quiet)


def test_a_restore_that_ends_leaves_no_mark(stack, made, data_services):
    assert put_back(stack) == {"left_out": {}, "database_made": False}
    assert data_services.data == dict.fromkeys(["postgres", "qdrant", "redis"], made.name)
    assert not (stack / "restoring.json").exists()


def test_a_database_that_is_missing_is_made_and_told(stack, made, data_services):
    """Regression: its owner had dropped it, and no restore made it again."""
    data_services.oid = 0
    data_services.fails["database"] = BackupError("no room")
    with pytest.raises(UntouchedError, match="no room"):
        put_back(stack)
    del data_services.fails["database"]
    assert put_back(stack)["database_made"]
    assert not put_back(stack)["database_made"]


def test_a_database_that_was_not_replaced_is_told_as_that(stack, made, data_services):
    """It is one transaction: the application may start again, and nothing stands in its way."""
    data_services.fails["postgres"] = BackupError("No space left on device")
    with pytest.raises(UntouchedError, match="No space left"):
        put_back(stack)
    assert not (stack / "restoring.json").exists()


def test_a_full_disk_is_told_before_anything_is_replaced(stack, made, data_services, monkeypatch):
    """Regression: the maintenance page stayed, although nothing had been touched."""
    manifest = check(settings(stack), "")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UntouchedError, match="No space left"):
        backup_set_module.restore(settings(stack), manifest, "", quiet)
    assert data_services.data == {}
    assert [path.name for path in stack.iterdir() if "restoring" in path.name] == []


def test_a_database_that_may_have_been_replaced_is_not(stack, made, data_services, monkeypatch):
    data_services.fails["postgres"] = BackupError("the engine went away")
    monkeypatch.setattr(psql, "end_postgres_sessions", lambda *_: False)
    with pytest.raises(BackupError, match="begun and not known to be whole") as caught:
        put_back(stack)
    assert not isinstance(caught.value, UntouchedError)
    assert (stack / "restoring.json").exists()


@pytest.mark.parametrize("how", [BackupError("no room"), KeyboardInterrupt(), OSError(28, "full")])
def test_data_of_two_moments_is_neither_served_nor_backed_up(stack, made, data_services, how):
    """Regression: a backup took half of a restore for the stack's data, and expired a good set."""
    data_services.fails["qdrant"] = how
    with pytest.raises((BackupError, KeyboardInterrupt, OSError)):
        put_back(stack)
    mark = stack / "restoring.json"
    assert stat.S_IMODE(mark.stat().st_mode) == 0o600
    told = refusal(stack, read_mark(stack))
    assert f"restore of the backup set {made.name} did not get to its end" in told
    assert "postgres: restored; qdrant: begun and not known to be whole; redis: as before" in told
    assert f"playbooks/restore.yml -e backup={made.name}" in told
    with pytest.raises(BackupError, match=r"No set was made\. The restore of the backup set"):
        timer(stack)
    assert [path.name for path in (stack / "backups").iterdir()] == [made.name]

    # The next one begins anew, and does not take for "as before" what the first one touched.
    data_services.fails = {"postgres": BackupError("no room")}
    with pytest.raises(BackupError, match="postgres, qdrant: begun and not known") as caught:
        put_back(stack)
    assert not isinstance(caught.value, UntouchedError)
    data_services.fails = {}
    put_back(stack)
    assert not mark.exists()


def test_what_is_not_what_the_set_says_keeps_the_mark(stack, made, data_services):
    data_services.rows = 2
    with pytest.raises(BackupError, match=r"rows of t: 2 instead of 1.* The data now: postgres"):
        put_back(stack)
    assert read_mark(stack)["set"] == made.name


@pytest.mark.parametrize("text", ["", "{", "[]", '{"parts": 3}', '{"set": 5, "parts": [1]}'])
def test_a_mark_that_cannot_be_read_is_one_all_the_same(tmp_path, text):
    (tmp_path / "restoring.json").write_text(text)
    assert "did not get to its end" in refusal(tmp_path, read_mark(tmp_path))


def test_what_a_killed_restore_left_is_put_in_order_and_told(stack, made, monkeypatch):
    """Regression: Redis, which the restore had stopped, kept every later restore from beginning."""
    assert backup_set_module.clean_up(settings(stack), quiet) == []
    manifest = {"id": RELEASE, "model": {"data_services": ["postgres", "redis"]}}
    (stack / "releases" / RELEASE / "manifest.json").write_text(json.dumps(manifest))
    (stack / "restoring.json").write_text(
        json.dumps({"set": made.name, "parts": {"postgres": "restored", "redis": "begun"}})
    )
    asked = []

    def run(_docker, *arguments):
        asked.append(arguments)
        text = " ".join(arguments)
        if "crisper.restore=demo" in text:
            return "left1\nleft2\n"
        if arguments[0] == "ps" and "service=redis" in text:
            return "stopped\n" if "--all" in arguments else ""
        return "running\n" if arguments[0] == "ps" else ""

    monkeypatch.setattr(docker_exec.Docker, "run", run)
    done = backup_set_module.clean_up(settings(stack), quiet)
    assert "postgres: restored; redis: begun and not known to be whole" in done[0]
    assert done[1:] == [
        "2 container(s) of it are removed.",
        "redis, which it had stopped, runs again.",
    ]
    assert ("rm", "--force", "--volumes", "left1", "left2") in asked
    assert ("start", "stopped") in asked
    assert ("start", "running") not in asked


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_copy_in_plain_is_warned_of_before_it_is_made(stack, monkeypatch, check_mode):
    """By `--check`, which is the plan of a backup, too."""
    monkeypatch.setattr(backup_set, "copy_away", lambda *_: [])
    given = dict.fromkeys(backup_set.ARGUMENT_SPEC, "") | {
        **{"root": str(stack), "project": "demo", "state": "made", "keep": 7, "keep_days": 0},
        **{"timeout": 60, "run": None, "remote_encrypted": False},
        **{"remote_tool": "rsync", "remote_target": "backup@elsewhere:/srv"},
    }
    warned = []
    backup_set.act(given, check_mode, warned.append)
    assert "copied to backup@elsewhere:/srv by rsync without encryption" in warned[0]
    backup_set.act({**given, "remote_encrypted": True}, True, warned.append)
    assert len(warned) == 1
