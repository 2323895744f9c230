"""The document's table of a run; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from faults.faults import Fault

PHASES = ("idle", "load", "deploy")
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
HEAD = """\
| fault | phase | requests failed | tasks lost | effects doubled | run again | seconds to recover |
|---|---|---|---|---|---|---|"""


def counted(cell: dict[str, Any], key: str) -> str:
    """`lost` or `doubled` of all accepted tasks."""
    if "tasks" not in cell:
        return "–"
    embeddings = cell["embeddings"] if key == "lost" else {}
    number = cell["tasks"][key] + embeddings.get(key, 0)
    return f"{number} of {cell['tasks']['accepted'] + embeddings.get('accepted', 0)}"


def requests(cell: dict[str, Any]) -> str:
    """Requests that failed, and those that a dependency failed."""
    if "requests" not in cell:
        return "–"
    told = f"{cell['requests']['failed']:,} of {cell['requests']['sent']:,}"
    if cell["beside"]["failed"]:
        told += f"; of those that need Redis {cell['beside']['failed']} of {cell['beside']['sent']}"
    return told


def rerun(cell: dict[str, Any]) -> str:
    """Tasks that ran when the fault came and began again, and when."""
    if "again" not in cell:
        return "–"
    return f"{cell['again']} after {cell['again_after']} s" if cell["again"] else "0"


def outcome(cell: dict[str, Any]) -> str:
    """Seconds to recover, and what became of the deploy."""
    told = f"{cell['recovered']}"
    if deploy := cell.get("deploy"):
        told += f"; the deploy {'failed' if deploy['hit'] else 'went on'}, the {deploy['serves']}"
        told += " release serves" + ("" if deploy["whole"] else ", beside remains of the other")
        told += ", the next deploy works" if not deploy["next"] else ", the next deploy fails"
    return told


def row(cell: dict[str, Any], complaints: list[str]) -> str:
    """One line of the table."""
    where = f"| `{cell['fault']}` | {cell['phase']} "
    if cell["error"]:
        return f"{where}| not measured to its end: {one_line(cell['error'])} | | | | |"
    columns = [requests(cell), counted(cell, "lost"), counted(cell, "doubled"), rerun(cell)]
    told = outcome(cell) + (f" **{one_line('; '.join(complaints))}**" if complaints else "")
    return f"{where}| {' | '.join([*columns, told])} |"


def one_line(text: str) -> str:
    """Text that fits into a cell of a table."""
    return re.sub(r"\s+", " ", text).replace("|", "/")[:300]


def placed(
    cells: list[dict[str, Any]], cell: dict[str, Any], order: list[str]
) -> list[dict[str, Any]]:
    """The cells with one more, or with that one anew; by fault in this order, and by phase."""
    where = (cell["fault"], cell["phase"])
    others = [c for c in cells if (c["fault"], c["phase"]) != where]
    return sorted(
        [*others, cell], key=lambda c: (order.index(c["fault"]), PHASES.index(c["phase"]))
    )


def render(run: dict[str, Any], faults: Mapping[str, Fault]) -> str:
    """The whole part between the markers.

    Args:
        run: what a run wrote: date, machine, cells with their revisions and complaints.
        faults: how each of them is made.
    """
    ran = [cell for cell in run["cells"] if "cannot" not in cell]
    revisions = ", ".join(dict.fromkeys(cell["revision"] for cell in run["cells"]))
    names = list(dict.fromkeys(cell["fault"] for cell in ran))
    parts = [
        f"Written by the run of {run['date']}, revision {revisions}, on {run['machine']}.",
        "\n".join([HEAD, *(row(cell, cell["complaints"]) for cell in ran)]),
        "\n".join(f"- `{name}`: {faults[name].how}." for name in names),
    ]
    cannot = [(f"`{c['fault']}`, {c['phase']}", c["cannot"]) for c in run["cells"] if "cannot" in c]
    cannot += [(f"`{name}`", fault.reason) for name, fault in faults.items() if fault.reason]
    seen = {(cell["fault"], cell["phase"]) for cell in run["cells"]}
    for phase in PHASES:
        left = [n for n, f in faults.items() if (n, phase) not in seen and not f.reason]
        if left:
            told = ", ".join(f"`{name}`" for name in left)
            cannot.append((f"{phase}: {told}", "not part of this run"))
    if cannot:
        lines = [f"- {name}: {one_line(reason)}." for name, reason in cannot]
        parts.append("\n".join(["Not run here:", "", *lines]))
    return "\n\n".join(parts)


def published(document: str, text: str) -> str:
    """The document with `text` between its markers.

    Raises:
        ValueError: the markers are not there, once each and in their order.
    """
    pattern = re.compile(f"({re.escape(BEGIN)}).*?({re.escape(END)})", re.DOTALL)
    if document.count(BEGIN) != 1 or document.count(END) != 1 or not pattern.search(document):
        raise ValueError(f"the document needs one {BEGIN} and, after it, one {END}")
    return pattern.sub(lambda match: f"{match[1]}\n{text}\n{match[2]}", document)
