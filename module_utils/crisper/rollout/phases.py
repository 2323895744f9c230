"""Take the phases of a stack's rollout on one host, in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..proxy.upstream import Upstreams
from .cancel_consumers import begin_cancelling, finish_cancelling
from .in_place import StoppingBeat, guard_data, replace_in_place, start_beat
from .plan import KEEP
from .start import start_release
from .state import Rollout
from .stop import stop_old, wait_until_healthy
from .verify import ask_everybody, finish_stopping, verify
from .workers import Workers

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# In their order; M(compose_rollout) documents what each does.
PHASES = ("start", "cancel_consumers", "replace", "stop_old", "verify")


def roll_out(module: AnsibleModule) -> dict[str, Any]:
    """Take the phases that M(compose_rollout) was asked for; return its result."""
    params = module.params
    rollout = Rollout(module)
    if params["live"]:
        rollout.upstreams = Upstreams(params["live"], params["services"])
    if params["workers"]:
        try:
            rollout.workers = Workers(params["workers"], params["docker_cli"])
        except ValueError as error:
            module.fail_json(msg=str(error))
    return _take_phases(rollout, set(params["phases"]))


def _take_phases(rollout: Rollout, phases: set[str]) -> dict[str, Any]:
    """Take the phases; some overlap.

    Beat is replaced and everybody is asked while the old containers stop. Nothing stops before the
    new workers were found to be right. Old workers that still hold tasks then stay, and the rest
    waits for another call.
    """
    check_mode = rollout.module.check_mode
    if "start" not in phases or check_mode:
        rollout.compare_definitions()
    steps, containers = rollout.plan()
    rollout.result |= rollout.summary(steps, containers)
    if check_mode:
        rollout.result["changed"] = bool(phases) and any(step.action != KEEP for step in steps)
        return rollout.result
    if {"start", "replace"} & phases:
        guard_data(rollout, steps)
    if "start" in phases:
        steps, containers = start_release(rollout, steps, containers)
    cancelling = begin_cancelling(rollout, containers) if "cancel_consumers" in phases else {}
    beat = replace_in_place(rollout, steps) if "replace" in phases else StoppingBeat()
    finish_cancelling(rollout, cancelling)
    web_only = bool(rollout.result.get("held"))
    if "stop_old" in phases:
        if "replace" not in phases and not web_only:
            wait_until_healthy(rollout)  # beat that an earlier call has started
        stop_old(rollout, web_only)
    start_beat(rollout, beat)
    verifies = "verify" in phases and not web_only
    if verifies:
        ask_everybody(rollout)
    if "stop_old" in phases:
        finish_stopping(rollout, web_only)
    if verifies:
        verify(rollout)
    return rollout.result
