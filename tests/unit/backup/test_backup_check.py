"""A set that is not this stack's, or was altered, is refused before anything is touched."""

from __future__ import annotations

import io
import json
import os
import tarfile

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup import set as set_module
from ansible_collections.crisper.stack.plugins.module_utils.backup.check import check
from ansible_collections.crisper.stack.plugins.module_utils.backup.cipher import measured
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import make
from ansible_collections.crisper.stack.plugins.module_utils.backup.signature import (
    SIGNATURE,
    key_name,
    signed,
)
from backup_stack import KEY, quiet, settings


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
    monkeypatch.setattr(set_module, "set_id", lambda _: "20991231t000000z")
    monkeypatch.setitem(set_module.DUMP, "redis", lambda *_: _[2].write(b"now") and {})
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
