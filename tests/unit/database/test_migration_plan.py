"""What is decided about a migration: when it is dumped, when it runs, and what is recorded."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.database.migration_plan import (
    BEGUN,
    DUMPING,
    STARTED,
    begin,
    changed,
    dump_name,
    end,
    hook_key,
    lost,
    replaced_since,
    valid_record,
    wants_check,
    wants_dump,
    wants_migration,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.one_off import (
    Command,
    Outcome,
    boot_time,
    parse_command,
    parse_outcome,
    unix_time,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import (
    irreversible_after,
    listing,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.retention import to_prune
from hypothesis import given
from hypothesis import strategies as st

ID = "20261120t221500z-1a2b3c4d"
STATES = ["", "dumping", "preparing", "started", "done", "failed", "unknown"]
RECORD = {"limit": 5, "changed_pattern": "Running", "irreversible_pattern": "(?i)irreversible"}
DONE = Outcome(0, "Running upgrade 7 -> 8, irreversible")
REVERSIBLE = Outcome(0, "Running upgrade 7 -> 8")
NOTHING = Outcome(0, "nothing to do; irreversible is but a word here")


@pytest.mark.parametrize(
    ("outcome", "state", "irreversible", "migrated"),
    [
        (DONE, "done", True, True),
        (REVERSIBLE, "done", False, True),
        (NOTHING, "done", False, None),
        (Outcome(1, "Running upgrade 7 -> 8, irreversible"), "failed", True, None),
        (Outcome(1, "", "no such revision"), "failed", False, None),
        (Outcome(124, "Running upgrade 7 -> 8"), "failed", False, None),
        # SIGKILL at the limit is the limit; before it, what the program had to say is lost.
        (Outcome(137, "", seconds=15), "failed", False, None),
        (Outcome(137, "", seconds=2), "unknown", True, None),
        (Outcome(0, "Running upgrade", cut=True), "unknown", True, None),
        (Outcome(None), "unknown", True, None),
        (Outcome(127, begun=False), "preparing", False, None),
    ],
)
def test_what_is_recorded_of_a_migration(
    outcome: Outcome, state: str, irreversible: bool, migrated: bool | None
) -> None:
    facts = end({**RECORD, "state": STARTED, "before": False}, outcome, 1.0)
    assert (facts["migration"]["state"], facts["irreversible"]) == (state, irreversible)
    assert facts.get("migrated") is migrated


def test_what_an_earlier_attempt_did_is_not_forgotten() -> None:
    manifest: dict[str, Any] = {"id": ID, "migration": {**RECORD, "state": STARTED}}
    manifest |= lost({**manifest, "irreversible": True})
    assert irreversible_after([manifest], "1")[0]["unknown"] is True
    manifest |= begin(manifest["migration"], manifest, STARTED, started_at=2.0)
    manifest |= end(manifest["migration"], REVERSIBLE, 3.0)
    assert (manifest["irreversible"], manifest["migration"]["uncertain"]) == (True, True)
    assert lost(manifest) == {}
    # One that was seen to the end is known, whatever came before it.
    known: dict[str, Any] = {"id": ID, "migration": {**RECORD, "state": STARTED}}
    known |= end(known["migration"], Outcome(1, "x"), 1.0)
    known |= begin(known["migration"], known, STARTED)
    assert known["irreversible"] is True  # while it runs
    known |= end(known["migration"], REVERSIBLE, 3.0)
    assert (known["irreversible"], known["migration"]["uncertain"]) == (False, False)


@given(st.lists(st.sampled_from([DONE, REVERSIBLE, NOTHING, Outcome(1, "irreversible"), None])))
def test_once_irreversible_always_irreversible(attempts: list[Outcome | None]) -> None:
    """None: the module and the container of the attempt are gone."""
    manifest: dict[str, Any] = {"id": ID}
    for outcome in attempts:
        record = manifest.get("migration") or dict(RECORD)
        manifest |= begin(record, manifest, STARTED)
        assert irreversible_after([manifest], "1"), "a killed deploy must leave it so"
        manifest |= end(manifest["migration"], outcome, 1.0) if outcome else lost(manifest)
    bad = any(o is None or o in (DONE, Outcome(1, "irreversible")) for o in attempts)
    assert bool(irreversible_after([manifest], "1")) is bad
    assert irreversible_after([manifest], ID) == []


@pytest.mark.parametrize("state", STATES)
def test_a_dump_is_made_only_while_nothing_has_begun(state: str) -> None:
    record = {"state": state} if state else {}
    assert wants_dump(record, True, first=False) is (state in ("", DUMPING))
    assert not wants_dump(record, True, first=True)
    assert not wants_dump(record, False, first=False)


@given(st.sampled_from(STATES), st.sets(st.integers(1, 5)), st.integers(1, 5))
def test_a_dump_takes_the_place_of_another_only_when_nothing_came_after_it(
    state: str, numbers: set[int], number: int
) -> None:
    names = {n: f"{ID}.dump" if n == 1 else f"{ID}.{n}.dump" for n in range(1, 6)}
    taken = {names[n] for n in numbers}
    name = dump_name(ID, taken, {"state": state, "dump": names[number]})
    assert name not in taken or (state == DUMPING and name == names[number])


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("checked", [None, 0, 1])
def test_a_migration_that_is_done_runs_again_only_when_it_is_pending(
    state: str, checked: int | None
) -> None:
    runs = wants_migration({"state": state}, checked)
    assert runs is (state != "done" if checked is None else checked != 0)


@pytest.mark.parametrize(
    ("check", "first", "other", "asked"),
    [
        (["c"], False, False, True),
        ([], False, False, False),
        (["c"], True, False, False),
        (["c"], False, True, False),
    ],
)
def test_when_the_application_is_asked(
    check: list[str], first: bool, other: bool, asked: bool
) -> None:
    assert wants_check(check, first, other) is asked


def test_a_record_counts_until_the_database_is_put_back() -> None:
    manifest = {"migration": {"state": "done", "started_at": 10.0}}
    entries = [{"step": "migrate", "time": 11.0}, {"step": "restore qdrant", "time": 12.0}]
    assert valid_record(manifest, entries)["state"] == "done"
    for step in ("restore_database", "restore postgres", "restore mariadb"):
        assert valid_record(manifest, [*entries, {"step": step, "time": 12.0}]) == {}
        assert valid_record(manifest, [*entries, {"step": step, "time": 9.0}])
    assert valid_record({}, entries) == {}
    assert not replaced_since([], 0.0)


def test_hooks_are_told_apart_after_the_inventory_was_changed() -> None:
    keys = {hook_key("before_migrate", 0, ["a", "b"]), hook_key("before_migrate", 0, ["a b"])}
    keys |= {hook_key("before_migrate", 1, ["a", "b"]), hook_key("after_migrate", 0, ["a", "b"])}
    assert len(keys) == 4


def test_output_that_tells_nothing_of_a_change_counts_as_one() -> None:
    assert changed({}, Outcome(0, ""))
    assert not changed({"changed_pattern": "^Applying"}, Outcome(0, "", "not Applying"))


def test_failed_releases_with_irreversible_migrations_stay_while_older_ones_do() -> None:
    """Regression: the next deploy pruned them, and the way back lost its dump and its warning."""
    releases = [{"id": name, "verified": name != "3"} for name in "12345"]
    assert to_prune(listing(releases, "5"), "5", 3, irreversible=["3"]) == ["1"]
    assert to_prune(listing(releases, "5"), "5", 2, irreversible=["3"]) == ["1", "2", "3"]
    assert to_prune(listing(releases, "5"), "5", 3) == ["1", "3"]
    assert BEGUN  # states that others rely on


# --- containers --------------------------------------------------------------------------------
COMMAND = Command("hook", ID, ("sh", "-c", "true"), 7, "before_migrate/0/abc")


def inspected(**state: Any) -> dict[str, Any]:
    labels = {**COMMAND.labels(), "crisper.release": ID}
    times = {"StartedAt": "2026-11-27T18:18:03.5Z", "FinishedAt": "2026-11-27T18:18:05.0Z"}
    state = {"Status": "exited", "ExitCode": 3, **times, **state}
    return {"Config": {"Labels": labels, "Cmd": COMMAND.words()}, "State": state}


def test_a_container_tells_which_command_it_runs() -> None:
    assert parse_command(inspected()) == COMMAND
    assert COMMAND.name("shop") == f"shop-hook-before_migrate-0-{ID}"
    assert Command("migrate", ID, (), 1).name("shop") == f"shop-migrate-{ID}"


def test_what_became_of_a_container() -> None:
    assert parse_outcome(inspected(), "o", "e") == Outcome(3, "o", "e", seconds=1.5)
    started = unix_time("2026-11-27T18:18:03.5Z")
    assert parse_outcome(inspected(), "", "", boot=started + 1).cut is True
    never = inspected(Status="created", StartedAt="0001-01-01T00:00:00Z", Error="no such file")
    assert parse_outcome(never, "", "") == Outcome(3, stderr="no such file", begun=False)
    assert boot_time() > 1e9
    assert boot_time("/nonexistent") == 0.0


@given(st.integers(0, 4_000_000_000), st.text("0123456789", max_size=9))
def test_times_of_the_engine_are_read(seconds: int, fraction: str) -> None:
    from datetime import UTC, datetime

    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    text += f".{fraction}Z" if fraction else "Z"
    assert unix_time(text) == pytest.approx(seconds + float(f"0.{fraction or 0}"), abs=1e-4)


@given(st.one_of(st.none(), st.text()))
def test_what_is_no_time_is_never(text: str | None) -> None:
    assert unix_time(text) >= 0


@pytest.mark.parametrize(
    ("outcome", "told"),
    [
        (Outcome(0), ""),
        (
            Outcome(1, "why"),
            "It failed with exit code 1. Mend it.\nLast lines of its output:\n| why",
        ),
        (Outcome(124), "It did not end within its time limit of 5 s and was stopped. Mend it."),
        (Outcome(137, seconds=6), "It did not end within its time limit of 5 s and was stopped."),
        (Outcome(137, seconds=1), "It was killed (exit code 137): by the memory limit"),
        (Outcome(255, cut=True), "It was cut off by a restart of the server and failed with exit"),
        (
            Outcome(None),
            "It ended without a known result: its container was removed before its exit code was"
            " read. Mend",
        ),
    ],
)
def test_failures_are_told(outcome: Outcome, told: str) -> None:
    message = outcome.failure("It", 5, "Mend it.")
    assert message.startswith(told)
    assert bool(message) is bool(told)
