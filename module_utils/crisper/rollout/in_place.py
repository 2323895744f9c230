"""Replace what belongs to no release, and beat, of which there must never be two."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from ..docker.client import BackgroundCommand
from ..docker.diagnosis import compose_error, describe
from ..host.data_guard import DATA_SERVICES, check_data
from .plan import CREATE, RECREATE, ROLLED, Step
from .state import Rollout
from .traffic import PROXY, switch_requests

# Until an nginx that is replaced is killed. It takes no new connection while it waits for what is
# under way, and streams never end by themselves: all users would wait for stop_grace_period.
PROXY_SECONDS = 5


@dataclass
class StoppingBeat:
    """Services of kind `singleton` that are about to stop: service to ids of old containers."""

    old: dict[str, list[str]] = field(default_factory=dict)
    command: BackgroundCommand | None = None


def guard_data(rollout: Rollout, steps: list[Step]) -> None:
    """Fail before a data service is made whose data is elsewhere, or in other hands."""
    wanted = [s.service for s in steps if s.service in DATA_SERVICES and s.action == CREATE]
    if not wanted:
        return
    root = Path(rollout.folder).resolve().parent.parent  # <root>/releases/<release>
    for each in check_data(rollout.docker.call, root, rollout.params["project_name"])[:1]:
        rollout.fail(f"{', '.join(wanted)} cannot be started: {each.message}. {each.remedy}.")


def replace_in_place(rollout: Rollout, steps: list[Step]) -> StoppingBeat:
    """Replace what belongs to no release, and have the old beat end; see `start_beat`."""
    wanted = [s for s in steps if s.kind not in ROLLED and s.action in (CREATE, RECREATE)]
    stopping = StoppingBeat({s.service: list(s.old) for s in wanted if s.kind == "singleton"})
    if not wanted:
        return stopping
    rollout.note("replace")
    if old := list(chain.from_iterable(stopping.old.values())):
        stopping.command = rollout.docker.begin("stop", *old)
        rollout.pending["beat"] = stopping.command.wait
    if any(step.service == PROXY for step in wanted):
        # It begins with the release's configuration. The one that it replaces may be broken or
        # compromised: what it says refuses nothing.
        switch_requests(rollout, *rollout.plan(), replaced=True)
    stateful = [step.service for step in wanted if step.kind == "stateful"]
    wait_options = ("--wait", "--wait-timeout", str(rollout.params["wait_timeout"]))
    if PROXY in stateful:
        _up(rollout, [PROXY], "--timeout", str(PROXY_SECONDS), *wait_options)
    if others := [service for service in stateful if service != PROXY]:
        _up(rollout, others, *wait_options)
    rollout.result["changed"] = True
    return stopping


def start_beat(rollout: Rollout, stopping: StoppingBeat) -> None:
    """Start beat when the old one is gone: two would send every scheduled task twice."""
    if stopping.command:
        rollout.pending.pop("beat", None)
        stopping.command.end()
        rollout.docker.run("rm", "--force", *chain.from_iterable(stopping.old.values()))
    if stopping.old:
        _up(rollout, list(stopping.old))


def _up(rollout: Rollout, services: list[str], *options: str) -> None:
    """Have Compose create and start services of the release, in place."""
    project = ("compose", "--project-name", rollout.params["project_name"])
    always = ("up", "--detach", "--no-deps", "--no-build")
    code, out, err = rollout.docker.call(
        *project, *always, *options, *services, folder=rollout.folder
    )
    if code != 0:
        mine = [c for c in rollout.docker.containers() if c.service in services]
        failures = rollout.failures(mine)
        rollout.fail(
            f"{', '.join(services)} of release {rollout.release} did not start:"
            f" {compose_error(err or out)}.{describe(failures)}"
        )
