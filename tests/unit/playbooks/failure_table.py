"""The table "Failure paths" of docs/RELIABILITY.md, and what of it would be wrong."""

from __future__ import annotations

from pathlib import Path

from failures import (
    FAILURES,
    NEW,
    NOTHING,
    OLD,
    ON_CONTROLLER,
    STEPS,
    Case,
    Outcome,
    State,
    told,
    went_on,
)

PAGE = Path(__file__).resolve().parents[3] / "docs/RELIABILITY.md"
BEGIN, END = "<!-- failure paths: begin -->", "<!-- failure paths: end -->"
HEAD = """| step | what goes wrong | what serves | what is told | the next run |
|---|---|---|---|---|"""


def serves(state: State) -> str:
    """What answers requests, and whose workers take tasks."""
    text = state.serving
    if state.consuming != [state.serving]:
        workers = " and ".join(state.consuming) or "none"
        text += f"; workers that take tasks: {workers}"
    return text


def row(outcome: Outcome) -> tuple[str, str, str]:
    """The cells of an outcome, of the host on which it went wrong; of three hosts the others'."""
    broken = "two" if outcome.case.hosts > 1 else "one"
    cells = [serves(outcome.after[broken]), told(outcome, broken), went_on(outcome, broken)]
    if outcome.case.hosts > 1 and outcome.case.failure != "second":
        cells[0] += f"; on the others {serves(outcome.after['one'])}"
        if outcome.case.failure != "controller":
            cells[1] += f"; of the others {told(outcome, 'one')}"
        cells[2] += f"; on the others {went_on(outcome, 'one')}"
    return cells[0], cells[1], cells[2]


def table(outcomes: list[Outcome]) -> str:
    """Rows of one number of hosts; failures with the same cells share one."""
    lines = [HEAD]
    for step in STEPS:
        found: dict[tuple[str, str, str], list[str]] = {}
        for failure in FAILURES:
            for outcome in outcomes:
                if (outcome.case.step, outcome.case.failure) == (step, failure):
                    found.setdefault(row(outcome), []).append(FAILURES[failure])
        for cells, failures in found.items():
            lines.append(f"| {step} | {', '.join(failures)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def section(outcomes: list[Outcome]) -> str:
    """What stands between the markers."""
    one = [o for o in outcomes if o.case.hosts == 1]
    three = [o for o in outcomes if o.case.hosts == 3]
    return "\n\n".join(
        [
            f"{BEGIN}\nOne host:",
            table(one),
            "Three hosts, of which one goes wrong:",
            f"{table(three)}\n{END}",
        ]
    )


def committed() -> str:
    """The section as the page has it."""
    text = PAGE.read_text()
    return text[text.index(BEGIN) : text.index(END) + len(END)]


def committed_row(case: Case) -> tuple[str, ...]:
    """The cells that the page has for a case; none where it has no such row."""
    one, _, three = committed().partition("Three hosts")
    rows = (three if case.hosts > 1 else one).splitlines()
    for line in (row for row in rows if row.startswith("| ")):
        step, failures, *cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if step == case.step and FAILURES[case.failure] in failures.split(", "):
            return tuple(cells)
    return ()


def write(text: str) -> None:
    """Put the section into the page."""
    PAGE.write_text(PAGE.read_text().replace(committed(), text))


# --- what must hold --------------------------------------------------------------------------
def problems(outcome: Outcome) -> list[str]:
    """Return what is wrong with an outcome; empty when all is as it must be."""
    case = outcome.case
    if not outcome.reached:
        return ["the point was never reached"]
    found: list[str] = []
    broken = "two" if case.hosts > 1 else "one"
    for name, state in outcome.after.items():
        found += [f"{name}: {text}" for text in _serving(outcome, name, state)]
        if (case.step, case.failure) == (ON_CONTROLLER, "kill"):
            found += [] if told(outcome, name) else [f"{name}: nothing was told"]
        elif case.failure in ("fail", "kill") or (case.failure == "unreachable" and name != broken):
            found += [f"{name}: {text}" for text in _undone(outcome, name, state)]
        elif case.failure == "second" and not told(outcome, name):
            found.append(f"{name}: the second run was not told who has the lock")
        elif case.failure == "unreachable" and not told(outcome, name):
            found.append(f"{name}: nothing was told of a host that stopped answering")
    for name, state in outcome.next_after.items():
        found += [f"{name}: after the next run {text}" for text in _deployed(outcome, name, state)]
    return found


def _serving(outcome: Outcome, name: str, state: State) -> list[str]:
    """Requests are answered in any case, by a release that is whole."""
    if state.serving not in (OLD, NEW):
        return [f"{state.serving} serves"]
    return []


def _undone(outcome: Outcome, name: str, state: State) -> list[str]:
    """A run that lived to its end has cleaned up, and told what is true."""
    found = []
    if outcome.code == 0:
        found.append("the run ended well")
    if state.locked or state.cut_off:
        found.append(f"the lock was not given back (in step {state.cut_off or 'none'})")
    if state.staged:
        found.append(f"{state.staged} is still staged")
    if state.current != state.serving:
        found.append(f"{state.current} is the current one, and {state.serving} serves")
    if state.consuming != [state.serving]:
        found.append(f"workers of {state.consuming} take tasks, and {state.serving} serves")
    if state.releases != [state.serving]:
        found.append(f"containers of {state.releases} run, and {state.serving} serves")
    words = told(outcome, name)
    before = outcome.before[name]
    if not words.startswith("What serves:"):
        found.append("what serves was not told")
    same = (before.containers, before.database, before.current)
    changed = same != (state.containers, state.database, state.current)
    if "nothing had been changed" in words and changed:
        found.append("it was told that nothing had been changed, which is not so")
    if "put back and verified" in words and state.serving != OLD:
        found.append(f"it was told that the old release was put back, and {state.serving} serves")
    return found


def _deployed(outcome: Outcome, name: str, state: State) -> list[str]:
    """The next run brings the release, and nothing of the failure is left."""
    found = []
    if outcome.next_code != 0:
        found.append("it had failed")
    if (state.serving, state.current) != (NEW, NEW):
        found.append(f"{state.serving or NOTHING} serves and {state.current} is the current one")
    if state.consuming != [NEW] or state.releases != [NEW]:
        found.append(f"containers of {state.releases} run, workers of {state.consuming} take tasks")
    if state.locked or state.staged or state.cut_off:
        found.append("the lock, a staged release or an unfinished journal was left")
    if not went_on(outcome, name):
        found.append("it did not say how it went on")
    return found
