"""Have containers of the application read the broker's queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..celery.skew import Tally
from ..docker.client import DockerClient
from ..probes import skew as skew_probe
from ..rollout.distrust import START_SECONDS, hurried, no_answer
from ..shapes import EACH, like
from .run import RemoteError, run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

NOTHING: dict[str, Any] = {
    "unknown": {},
    "waiting": {},
    "orphaned": {},
    "unreadable": {},
    "partial": {},
    "unlisted": False,
    "registered": 0,
    "seconds": 0.0,
    "problem": "",
}
# What a container answers, whatever it is.
ANSWER: dict[str, Any] = {
    **NOTHING,
    "error": "",
    "unknown": {EACH: 0},
    "waiting": {EACH: {EACH: 0}},
    "orphaned": {EACH: 0},
    "unreadable": {EACH: 0},
    "partial": {EACH: {"read": 0, "of": 0}},
}
READING = ("waiting", "unreadable", "partial", "unlisted")


def command_of(params: dict[str, Any], container: str = "") -> list[str]:
    """Return the command that runs Python where the application is, or in the container given."""
    if container or params["container"]:
        start = ["exec", "--interactive", container or params["container"]]
    else:
        name = params["project_name"]
        start = ["compose", *(["--project-name", name] if name else [])]
        # Not `docker run --env-file`: it reads quotes in the file otherwise than Compose does.
        start += ["run", "--rm", "--no-deps", "-T", params["service"]]
    return [params["docker_cli"], *start, params["python"], "-"]


def running_container(module: AnsibleModule) -> str:
    """Return a running container that can read the queues; empty when there is none."""
    params = module.params
    if not params["running"] or not (params["known"] or params["known_is_all"]):
        return ""
    return DockerClient(module, params["project_name"]).find_running(params["running"])[0]


def ask_running(module: AnsibleModule, container: str, request: dict[str, Any]) -> dict[str, Any]:
    """Return what a running container reads; nothing, and a warning, where it gives no answer."""
    quick, limit = hurried(request, min(request["timeout"], request["budget"] + START_SECONDS))
    quick["known_only"] = True
    try:
        reply = run(command_of(module.params, container), skew_probe, quick, limit)
    except RemoteError as error:
        instead = "A container of the release is asked instead"
        module.warn(no_answer(container, str(error), instead))
        return {}
    answer: dict[str, Any] = like(reply, ANSWER)
    return answer


def ask_release(params: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return what the release says.

    Raises:
        RemoteError: it gives no answer.
    """
    limit = params["import_timeout"] + params["timeout"] + 60
    reply = run(command_of(params), skew_probe, request, limit, params["project_src"])
    answer: dict[str, Any] = like(reply, ANSWER)
    return answer


def confirmed(
    params: dict[str, Any], request: dict[str, Any], reply: dict[str, Any]
) -> dict[str, Any]:
    """Return what the release reads itself, where another container told of unknown tasks.

    That one is about to be replaced: its word alone refuses nothing. It stands where the release
    cannot read the queues, as tasks would be thrown away.
    """
    try:
        anew = {**request, "reading": None, "known_only": params["known_is_all"]}
        own = ask_release(params, anew)
    except RemoteError:
        return reply
    return reply if own["problem"] else own


def judged(params: dict[str, Any]) -> dict[str, Any]:
    """Return what an earlier reading says, if that needs no container; else nothing."""
    if not params["reading"]:
        return {}
    tally = Tally.of_reading(params["reading"])
    summary = tally.summary(set(params["known"]), params["queues"])
    if summary["unknown"] and not params["known_is_all"]:
        return {}
    return {**summary, "registered": len(params["known"]), "seconds": 0.0, "problem": ""}


def find_unknown(module: AnsibleModule) -> dict[str, Any]:
    """Return what waits and is unknown, by as few containers as are needed.

    Raises:
        RemoteError: the release gives no answer.
    """
    params = module.params
    names = ("app", "queues", "timeout", "broker_timeout", "import_timeout", "known")
    request = {name: params[name] for name in (*names, "budget", "reading")}
    reply = judged(params)
    hearsay = bool(params["reading"])
    container = "" if reply else running_container(module)
    if container:
        reply = ask_running(module, container, request)
        hearsay = hearsay or (bool(reply) and not reply["problem"])
    # An application that runs and cannot be read is no reason to stop: the release is asked.
    if not reply or reply["problem"] or (reply["unknown"] and not params["known_is_all"]):
        # The queues are read once; the release only says whether it knows the names.
        if reply and not reply["problem"]:
            request["reading"] = {key: reply[key] for key in READING}
        reply = ask_release(params, request)
    if hearsay and reply["unknown"] and not reply["problem"] and not params["allow_unknown"]:
        reply = confirmed(params, request, reply)
    return reply
