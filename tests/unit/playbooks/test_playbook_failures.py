"""Whatever goes wrong in whichever step: something serves, it is told, and the next run works."""

from __future__ import annotations

import os
from pathlib import Path

import failure_table
import pytest
from failures import FAILURES, STEPS, Case, Outcome, run_cases

# Of three hosts: when the database, the containers and the requests change.
THREE = ("migrate", "start the new containers", "stop the old containers")
ONE_HOST = [
    Case(step, failure)
    for step in STEPS
    for failure in FAILURES
    # Before it has the lock, a second run is a first one.
    if (step, failure) != ("take the lock", "second")
]
THREE_HOSTS = [Case(step, failure, 3) for step in THREE for failure in FAILURES]
CASES = [*ONE_HOST, *THREE_HOSTS]
WRITE = "CRISPER_WRITE_TABLE"


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[Case, Outcome]:
    """What came of those cases that tests of this run ask for."""
    chosen = {
        item.callspec.params["case"]
        for item in request.session.items
        if getattr(item, "callspec", None) and "case" in item.callspec.params
    }
    whole = any(item.name == "test_the_page_has_this_table" for item in request.session.items)
    wanted = [case for case in CASES if whole or case in chosen]
    return run_cases(wanted, tmp_path_factory.mktemp("failures"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_release_serves_and_the_next_run_works(case: Case, outcomes: dict[Case, Outcome]) -> None:
    outcome = outcomes[case]

    wrong = failure_table.problems(outcome)

    assert not wrong, "\n".join([*wrong, outcome.output[-3000:], outcome.next_output[-3000:]])


def test_the_page_has_this_table(outcomes: dict[Case, Outcome]) -> None:
    table = failure_table.section([outcomes[case] for case in CASES])

    if os.environ.get(WRITE):
        failure_table.write(table)
    assert failure_table.committed() == table, f"write it with {WRITE}=1 pytest {Path(__file__)}"


def test_no_cell_is_empty_or_unknown() -> None:
    rows = [line for line in failure_table.committed().splitlines() if line.startswith("| ")]
    cells = [cell.strip() for row in rows for cell in row.strip("|").split(" | ")]

    assert len(rows) > len(STEPS)
    assert not [cell for cell in cells if not cell or "unknown" in cell]
