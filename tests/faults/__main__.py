"""Hurt a deployed stack in every way and phase, and write down what it cost.

    PYTHONPATH=tests python -m faults --server crisper-mol-faults-trixie --group faults
        [--faults worker_kill,oom] [--phases idle,load] [--output FILE.json [--resume]]
        [--publish FILE.md]

The server is the scenario `faults`'s (molecule converge -s faults), deployed with LOAD_TEST=true.
Exit code 0: every cell kept what is promised (tests/faults/verdict.py); 1: one did not; 2: usage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "molecule/shared"))

from faults.cell import Stack, run_cell  # noqa: E402
from faults.faults import FAULTS  # noqa: E402
from faults.server import Server, run  # noqa: E402
from faults.table import PHASES, placed, published, render  # noqa: E402
from faults.verdict import complaints  # noqa: E402


def names(known: tuple[str, ...], what: str) -> Any:
    """A parser of names with commas between them."""

    def parse(text: str) -> list[str]:
        found = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := sorted(set(found) - set(known)):
            told = f"no such {what}: {', '.join(unknown)}; there are {', '.join(known)}"
            raise argparse.ArgumentTypeError(told)
        return found

    return parse


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--server", required=True, help="name of the server's container")
    parser.add_argument("--group", required=True, help="its group in molecule/inventory")
    parser.add_argument("--port", type=int, default=8080, help="of its front")
    every = tuple(FAULTS)
    parser.add_argument("--faults", type=names(every, "fault"), default=every)
    parser.add_argument("--phases", type=names(PHASES, "phase"), default=PHASES)
    parser.add_argument("--output", type=Path, help="where the result is kept as JSON")
    parser.add_argument("--resume", action="store_true", help="keep the other cells of --output")
    parser.add_argument("--publish", type=Path, help="document to write the table into")
    chosen = parser.parse_args()
    if chosen.resume and not (chosen.output and chosen.output.exists()):
        parser.error("--resume goes on with the file of --output, and there is none")
    return chosen


def machine(server: Server) -> str:
    """What it ran on, in words."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    engine = server.sh("docker version --format '{{.Server.Version}}'").strip()
    system = server.sh(". /etc/os-release; echo $PRETTY_NAME").strip()
    kernel = os.uname().release.split("-")[0]
    return (
        f"{os.cpu_count()} processors and {memory:.0f} GB: a server that is a container"
        f" ({system}, Linux {kernel}, Docker {engine} inside it)"
    )


def revision() -> str:
    """Of the working tree."""
    return run("git", "-C", str(ROOT), "describe", "--always", "--dirty").strip()


def main() -> int:
    """Run the cells one after the other; each is written down as soon as it is over."""
    chosen = arguments()
    server = Server(chosen.server)
    expected = Counter(container.service for container in server.containers())
    stack = Stack(server, f"http://{server.address()}:{chosen.port}", chosen.group, expected)
    result: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(server),
        "cells": json.loads(chosen.output.read_text())["cells"] if chosen.resume else [],
    }
    broken = False
    for phase in chosen.phases:
        for name in chosen.faults:
            if FAULTS[name].reason:
                continue
            cell = run_cell(stack, name, FAULTS[name], phase)
            cell |= {"complaints": complaints(cell, FAULTS[name]), "revision": revision()}
            result["cells"] = placed(result["cells"], cell, list(FAULTS))
            broken |= bool(cell["complaints"])
            print(json.dumps(cell), flush=True)
            if chosen.output:
                chosen.output.write_text(json.dumps(result, indent=1))
            if chosen.publish:
                document = chosen.publish.read_text()
                chosen.publish.write_text(published(document, render(result, FAULTS)))
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
