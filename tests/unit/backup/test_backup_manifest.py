"""Backup sets: what is whole, what fits, what expires; and files through the real tools' frame."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime, timedelta

import pytest
from ansible.template import trust_as_template
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import (
    FILES,
    SET_ID,
    BackupError,
    damage,
    differences,
    made_at,
    misfits,
    misplaced,
    newer_than_code,
    newest,
    parse_manifest,
    remote_warning,
    set_id,
    to_expire,
    version_numbers,
)
from hypothesis import given
from hypothesis import strategies as st
from rendering import ROOT, Inventory

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2026, 11, 21), timezones=st.just(UTC))
NAMES = st.lists(MOMENTS.map(set_id), unique=True, max_size=30)


def manifest(**changes):
    whole = {
        "format": 1,
        "set": "20261120t221500z",
        "release": "20261119t080000z-99887766",
        "encryption": "",
        "parts": {
            "postgres": {
                "file": "postgres.dump",
                "version": "17.6",
                "migration_head": ["0008"],
                "rows": {"public.items": 3},
            },
            "redis": {"file": "redis.rdb", "version": "8.0.2"},
        },
        "files": {
            "postgres.dump": {"bytes": 10, "sha256": "a" * 64},
            "redis.rdb": {"bytes": 4, "sha256": "b" * 64},
        },
    }
    return whole | changes


# --- retention ---
@given(NAMES, st.integers(1, 10), st.floats(0, 400))
def test_retention_keeps_the_newest_and_only_what_it_may(names, keep, days):
    gone = set(to_expire(names, keep, days, NOW))
    stays = sorted(set(names) - gone)
    assert gone <= set(names)
    assert len(stays) <= keep
    if names:
        assert newest(names) in stays
    # Whatever stays is newer than whatever goes: there are no holes.
    assert not gone or not stays or max(gone) < min(stays)
    if days:
        assert all(made_at(name) >= NOW - timedelta(days=days) for name in stays[:-1])
    if not days:
        assert len(stays) == min(keep, len(names))


@given(NAMES, st.integers(1, 10), st.floats(0, 400))
def test_retention_is_done_at_once(names, keep, days):
    stays = set(names) - set(to_expire(names, keep, days, NOW))
    assert to_expire(stays, keep, days, NOW) == []


@given(st.lists(st.text(max_size=20)), st.integers(-3, 10))
def test_retention_touches_nothing_that_is_no_set(names, keep):
    assert all(SET_ID.match(name) for name in to_expire(names, keep, 0, NOW))


def test_no_number_of_sets_expires_the_last_one():
    assert to_expire(["20260101t000000z"], 0, 1, NOW) == []


@given(MOMENTS)
def test_an_id_tells_when_its_set_was_made(moment):
    assert made_at(set_id(moment)) == moment.replace(microsecond=0)


# --- manifests ---
def test_a_manifest_is_read_back():
    assert parse_manifest(json.dumps(manifest()), "x") == manifest()


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_anything_else_is_told(text):
    with pytest.raises(BackupError, match="is not the manifest of a backup set"):
        parse_manifest(text, "/x/manifest.json")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "its format is 2, this version reads 1"),
        ({"files": {}}, "it lists no files"),
        ({"files": {"../x": {"bytes": 1, "sha256": "a" * 64}}}, "it names the file '../x'"),
        ({"files": {"a": {"bytes": 1, "sha256": "nonsense"}}}, "sha256 of a are missing"),
        ({"set": "20261120"}, "it does not name its set"),
        ({"files": {"a": {"bytes": True, "sha256": "a" * 64}}}, "size and sha256 of a are missing"),
        ({"parts": {"redis": {"file": ["redis.rdb"]}}}, "its file is not listed"),
        ({"parts": {"uploads": {"file": "redis.rdb"}}}, "how many files and bytes were uploaded"),
        ({"encryption": ["age"]}, r"its encryption is \['age'\]"),
        ({"made_by": "ops\x1b[2J"}, "its made_by is .*, which is no text of one line"),
        ({"made_by": "x" * 201}, "its made_by is"),
        ({"release": 5}, "its release is 5, which is none"),
        ({"release": "5 or newer"}, "its release is '5 or newer', which is none"),
        ({"stack": "crisper, verified. OK: run curl"}, "its stack is 'crisper, verified"),
        ({"stack": "shop\n"}, "its stack is"),
        ({"stack": "größe"}, "its stack is"),
        ({"made_at": "now"}, "its made_at is 'now', which is none"),
        ({"parts": {"redis": {"file": "redis.rdb", "version": "8; rm"}}}, "its version of redis"),
        ({"files": {"a b": {"bytes": 1, "sha256": "a" * 64}}}, "it names the file 'a b'"),
        ({"parts": {"oracle": {"file": "redis.rdb"}}}, "the part 'oracle' is unknown"),
        ({"parts": {"redis": {"file": "/etc/shadow"}}}, "the part 'redis' is unknown or its file"),
        ({"encryption": "rot13"}, "its encryption is 'rot13'"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(changes, said):
    with pytest.raises(BackupError, match=said):
        parse_manifest(json.dumps(manifest(**changes)), "x")


def test_every_kind_of_damage_is_named():
    seen = {"postgres.dump": (10, "a" * 64), "redis.rdb": (4, "b" * 64)}
    assert damage(manifest(), seen) == []
    assert damage(manifest(), {**seen, "redis.rdb": None}) == [
        "redis.rdb is missing, or no regular file"
    ]
    assert damage(manifest(), {**seen, "redis.rdb": (3, "b" * 64)}) == [
        "redis.rdb has 3 bytes, 4 expected"
    ]
    assert damage(manifest(), {**seen, "redis.rdb": (4, "c" * 64)}) == [
        "the checksum of redis.rdb is not the one in the manifest"
    ]


# --- what fits ---
@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("17.12", (17, 12)),
        ("8.0.2", (8, 0, 2)),
        ("11.8.3-MariaDB", (11, 8, 3)),
        ("1.19.1", (1, 19, 1)),
        ("", ()),
    ],
)
def test_versions_are_told_apart(text, numbers):
    assert version_numbers(text) == numbers


@pytest.mark.parametrize(
    ("running", "said"),
    [
        ({"postgres": "17.2", "redis": "8.0.1"}, []),
        ({"postgres": "18.0", "redis": "8.2.0"}, []),
        ({"postgres": "16.9", "redis": "8.0.2"}, ["postgres 17.6 wrote it"]),
        ({"postgres": "17.6", "redis": "7.4.0"}, ["redis 8.0.2 wrote it"]),
        ({"postgres": "17.6"}, ["the set has redis, which this stack does not run"]),
        ({"postgres": "", "redis": "8.0.2"}, ["postgres 17.6 wrote it"]),
    ],
)
def test_only_the_same_or_newer_services_read_a_set(running, said):
    found = misfits(manifest(), running)
    assert len(found) == len(said)
    assert all(text.startswith(start) for text, start in zip(found, said, strict=True))


@pytest.mark.parametrize(
    ("release", "head", "fits"),
    [
        ("20261119t080000z-99887766", ["0008"], True),
        ("20261119t080000z-99887766", ["0007"], True),  # the same release: its own schema
        ("20261120t080000z-11111111", ["0009"], True),  # newer code migrates it
        ("20261118t080000z-11111111", ["0008"], True),  # older code, the same schema
        ("20261118t080000z-11111111", ["0007"], False),
        ("20261118t080000z-11111111", [], False),
    ],
)
def test_a_schema_newer_than_the_code_is_refused(release, head, fits):
    assert (newer_than_code(manifest(), release, head) == []) == fits


def test_what_a_restore_lacks_is_named():
    told = manifest()["parts"]["postgres"]
    assert differences(told, told) == []
    assert differences(told, {"migration_head": ["0007"], "rows": {"public.items": 2}}) == [
        "migration_head: ['0007'] instead of ['0008']",
        "rows of public.items: 2 instead of 3",
    ]
    assert differences({"vectors": {"a": 1}}, {"vectors": {"b": 1}}) == [
        "vectors of a: None instead of 1",
        "vectors of b: 1 instead of None",
    ]


def test_what_waits_is_taken_before_what_it_names():
    order = list(FILES)
    assert order.index("redis") < order.index("postgres") < order.index("qdrant")


def test_names_of_an_application_cannot_forge_lines():
    found = differences({"rows": {"a\nb": 1}}, {"rows": {"a\nb": 2}})
    assert found == [r"rows of a\nb: 2 instead of 1"]


@given(st.dictionaries(st.sampled_from(["stack", "made_at", "release", "made_by"]), st.text()))
def test_a_manifest_that_is_taken_says_no_sentence(changes):
    """Regression: a forged stack name was printed as the end of our sentence, with a command."""
    text = json.dumps(manifest(**changes))
    with contextlib.suppress(BackupError):
        found = parse_manifest(text, "x")
        assert all(" " not in found.get(name, "") for name in ("stack", "made_at", "release"))
        return
    with pytest.raises(BackupError) as refused:
        parse_manifest(text, "x")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


def test_swapped_parts_are_told_apart_from_damage():
    seen = {name: (file["bytes"], file["sha256"]) for name, file in manifest()["files"].items()}
    one, other = list(seen)[:2]
    seen[one], seen[other] = seen[other], seen[one]
    found = damage(manifest(), seen)
    assert f"{one} holds what {other} has to hold: they were swapped" in found


def test_a_set_under_another_name_is_told_with_its_date_and_stack():
    old = manifest(made_at="2026-11-20T22:15:00+00:00", stack="shop")
    assert misplaced(old, old["set"]) == ""
    told = misplaced(old, "20261130t000000z")
    assert "holds another set: 20261120t221500z of shop, made 2026-11-20T22:15:00+00:00" in told
    assert "name the folder 20261120t221500z" in told


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        (("", "", "", False), False),
        (("rsync", "backup@elsewhere:/srv", "age", False), False),
        (("rclone", "crypt:sets", "", True), False),
        (("rsync", "backup@elsewhere:/srv", "", False), True),
    ],
)
def test_a_copy_in_plain_is_warned_of(given, warned):
    told = remote_warning(*given)
    assert bool(told) is warned
    if warned:
        assert "copied to backup@elsewhere:/srv by rsync without encryption" in told
        assert "Set backup_encryption (age or gpg) and backup_recipient." in told


def plan(**variables):
    """Return what `deploy.yml --tags plan` prints with these variables in the inventory."""
    inventory = Inventory(json.dumps({"stack_name": "demo", **variables}))
    lists = ("steps", "images", "env_changed", "files_changed", "refusals", "workers")
    empty = {name: [] for name in lists}
    inventory.known |= {
        "release_plan": {
            **empty,
            "same": True,
            "current": "20261120t221500z",
            "migrations": "none",
        },
        "release_roles": {},
        "release_application": {"warnings": [], "refusals": []},
        "release_settings_warnings": [],
        "stack_model": {"proxy": {"tls": ""}},
    }
    template = (ROOT / "roles/release/templates/plan.txt.j2").read_text()
    return inventory.templar.template(trust_as_template(template))


def test_the_plan_of_a_deploy_warns_of_copies_in_plain():
    copied = {"backup_remote_tool": "rsync", "backup_remote_target": "backup@elsewhere:/srv"}
    told = plan(**copied)
    assert "Warning   Backup sets are copied to backup@elsewhere:/srv by rsync without enc" in told
    assert "Set backup_encryption (age or gpg) and backup_recipient" in told
    for silent in ({}, {**copied, "backup_encryption": "age"}):
        assert "Warning" not in plan(**silent)
    assert "Warning" not in plan(**copied, backup_remote_encrypted="true")
