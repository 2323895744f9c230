"""Findings of role verify, from the results of its checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..celery.busy import UNCONSUMED
from ..text import listed
from .verify import celery_finding, http_finding, port_finding, step_finding

Result = Mapping[str, Any]

# Findings over workers that a container which does not run explains.
FOLLOWING = frozenset({"no_worker_answered", "node_silent", "wrong_count"})


def verify_findings(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence with the remedy for each finding, in the order of the checks.

    Args:
        results: what each check returned; of a task that was skipped, its result says so.
            ``release`` (id), ``plan`` (compose_rollout), ``web`` (whether the release has web
            containers), ``outside`` (http_probe) with the Host header ``host``, ``inside``
            (nginx_probe) with ``authority``, ``workers`` (celery_inspect), ``uploads``
            (container_exec) with ``uploads_folder``, ``firewall`` (stack_firewall).
    """
    remedies = _of_missing_pools(results["plan"])
    return [
        *_containers(results["release"], results["plan"], results["web"]),
        *_answers(results["outside"], results["host"]),
        *_inside(results["inside"], results["authority"]),
        *_workers(results["workers"], remedies),
        *_uploads(results["uploads"], results["uploads_folder"]),
        *(port_finding(port, results["outside"]["address"]) for port in results["outside"]["open"]),
        *_firewall(results["firewall"]),
    ]


def staged_words(release: str, state: Result) -> str:
    """Return what to say of a release that an earlier deploy has staged; empty for none.

    Args:
        release: id of the release that is verified; empty for none.
        state: result of M(deploy_state); skipped where this run knows its release.
    """
    staged = "" if state.get("skipped") else state.get("staged", "")
    if not staged:
        return ""
    if staged == release:
        return (
            f"Release {release} serves and is not the current one yet: its deploy was interrupted."
            " Run the deploy again; it resumes."
        )
    verified = f"{release}, which serves" if release else "nothing"
    return (
        f"Release {staged} is staged and not verified: its deploy was interrupted, or ran with some"
        f" tags only. This run verifies {verified}. Run the deploy again; it resumes or reverts"
        " that deploy."
    )


def _containers(release: str, plan: Result, web: bool) -> Iterator[str]:
    """Yield findings about containers, and about the release that gets the requests."""
    for step in plan["steps"]:
        if step["action"] != "keep":
            yield step_finding(step, release)
    if web and plan.get("serving", release) != release:
        yield (
            f"nginx sends requests to release {plan['serving'] or 'none'}: run the deploy again; it"
            " sends them to this one."
        )


def _answers(result: Result, host: str) -> Iterator[str]:
    """Yield findings about answers to requests with the Host header `host`."""
    for answer in result["answers"]:
        if not answer["ok"]:
            yield http_finding(answer, host)


def _inside(result: Result, authority: str) -> Iterator[str]:
    """Yield findings about nginx, asked inside of its container."""
    if result.get("skipped"):
        return
    words = result.get("msg", "nginx_probe gave no answer")
    silent = {"url": "nginx", "inside": True, "ok": False, "status": -1, "msg": words}
    yield from _answers({"answers": result.get("answers", [silent])}, authority)


def _of_missing_pools(plan: Result) -> dict[str, str]:
    """Return the remedy by code of finding where services of workers do not run as they should.

    What follows from that has no remedy of its own: an inventory that is right would be changed.
    """
    steps = [step for step in plan["steps"] if step["action"] != "keep"]
    missing = listed(step["service"] for step in steps if step.get("kind") == "worker")
    if not missing:
        return {}
    remedy = f"This may follow from the service {missing} above: correct that first."
    return dict.fromkeys({*FOLLOWING, UNCONSUMED}, remedy)


def _workers(result: Result, remedies: Mapping[str, str]) -> Iterator[str]:
    """Yield findings about workers, queues and canaries; `remedies` by code replace their own."""
    silent = {"message": result.get("msg", "celery_inspect gave no answer")}
    canary: Result = result.get("canary") or {}
    for finding in [*result.get("findings", [silent]), *canary.get("findings", [])]:
        code = UNCONSUMED if _is_unconsumed(finding, canary) else str(finding.get("code"))
        yield celery_finding({**finding, "remedy": remedies.get(code, finding.get("remedy", ""))})


def _is_unconsumed(finding: Result, canary: Result) -> bool:
    """Return whether a finding is a canary that no worker takes because none consumes its queue."""
    entry = (canary.get("queues") or {}).get(finding.get("queue")) or {}
    return bool((entry.get("why") or {}).get("kind") == UNCONSUMED)


def _uploads(result: Result, folder: str) -> Iterator[str]:
    """Yield the finding about the folder of uploaded files."""
    if not result.get("skipped") and result.get("rc", 1) != 0:
        yield (
            f"The application cannot write to {folder} (stack_app.uploads): its image must have"
            " that folder, empty and owned by the user it runs as; a volume that was made without"
            ' it keeps its owner (docs/BACKUP.md, "Uploaded files").'
        )


def _firewall(result: Result) -> Iterator[str]:
    """Yield findings about what containers reach of the host."""
    if not result.get("skipped"):
        silent = [result.get("msg", "stack_firewall gave no answer")]
        yield from result.get("findings", silent)
