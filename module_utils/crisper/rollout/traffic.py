"""Have nginx send requests to a release, and wait until none is left for what stops."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence

from ..docker.diagnosis import compose_error, describe
from ..host.networks import networks_to_join
from ..output import quote_last_lines
from ..process import capture
from ..proxy.upstream import Upstreams, waiting_connections
from ..text import composed
from .distrust import ID_WIDTH
from .plan import Container, Step, not_ready
from .state import Rollout

# The service that requests come in by, and what does things in its container.
PROXY = "nginx"
SCRIPT = "upstreams.sh"
UPSTREAMS = ("sh", f"/etc/crisper/{SCRIPT}")
TEST = ("nginx", "-t", "-c", "/etc/crisper/nginx.conf")
# Where no release with that script has been yet: going back to one of before.
RELOAD = 'nginx -t -c /etc/crisper/nginx.conf && kill -HUP "$(cat /tmp/nginx.pid)"'
# Until a command in nginx's container has ended: `ready` asks each container three times for 5 s,
# `reload` waits 10 s for nginx. A container whose processes somebody stops never answers.
PROXY_COMMAND_SECONDS = 120
# Exit codes of `docker exec` where the container, and not nginx, has ended the command.
NO_ANSWER = (125, 126, 127, 137, 143)
# Until a web container that is to stop has accepted what waits at its socket; between two looks.
ACCEPT_SECONDS, SETTLE_SECONDS = 30.0, 0.1


def refuse_unready(
    rollout: Rollout, steps: list[Step], containers: list[Container], stays: str
) -> None:
    """Fail where new containers of these steps do not serve, and say why each does not.

    Args:
        rollout: its state.
        steps: of the plan.
        containers: of the stack.
        stays: what stays as it is, the message's first words.
    """
    missing = not_ready(steps)
    if not missing:
        return
    services = {step.service for step in steps if not_ready([step])}
    mine = [c for c in containers if c.release == rollout.release and c.service in services]
    rollout.fail(
        f"{stays}, because the new containers do not serve: {'; '.join(missing)}."
        " Run the deploy again; it starts what is missing." + describe(rollout.failures(mine))
    )


def switch_requests(
    rollout: Rollout, steps: list[Step], containers: list[Container], replaced: bool = False
) -> None:
    """Have nginx send all requests to the release from now on.

    Containers that get none any more finish those that they have.

    Args:
        rollout: its state.
        steps: of the plan.
        containers: of the stack.
        replaced: whether nginx's container is about to be replaced.
    """
    upstreams = rollout.upstreams
    if upstreams is None:
        return
    proxies = [c.id for c in containers if c.service == PROXY and c.state == "running"]
    if rollout.params["reload"]:
        _reload(rollout, upstreams, proxies, replaced)
    if not upstreams.services or upstreams.serving == rollout.release:
        return
    web = [step for step in steps if step.kind == "web"]
    stays = f"Requests stay with release {upstreams.serving or 'none'}"
    refuse_unready(rollout, web, containers, stays)
    rollout.note("switch")
    _join_networks(rollout, proxies, containers)
    upstreams.prepare(rollout.release)
    for proxy in proxies:
        what, ready = "nginx finds no healthy containers", (*UPSTREAMS, "ready", rollout.release)
        _ask_proxy(rollout, proxy, what, *ready, instead=ready if replaced else None)
    upstreams.switch(rollout.release)
    rollout.result |= {"changed": True, "serving": rollout.release}
    # Replicas of the release that served may have been out of the rotation.
    for proxy in proxies:
        what = "nginx does not take up the replicas"
        _ask_proxy(rollout, proxy, what, *UPSTREAMS, "release", instead=() if replaced else None)


def _reload(rollout: Rollout, upstreams: Upstreams, proxies: Sequence[str], replaced: bool) -> None:
    """Have nginx load its configuration."""
    script = [*UPSTREAMS, "reload"]
    command = script if (upstreams.folder / SCRIPT).is_file() else ["sh", "-c", RELOAD]
    for proxy in proxies:
        what = "nginx does not take the configuration"
        _ask_proxy(rollout, proxy, what, *command, instead=TEST if replaced else None)


def _join_networks(
    rollout: Rollout, proxies: Sequence[str], containers: Sequence[Container]
) -> None:
    """Have nginx reach web containers whose networks another edition of it is not on.

    It is created anew only later, with requests to the release from its first one on.
    """
    webs = rollout.services_of_kind("web")
    mine = [c.id for c in containers if c.service in webs and c.release == rollout.release]
    if not mine or not proxies:
        return
    _code, out, _err = rollout.docker.call("container", "inspect", *mine)
    records = json.loads(out or "[]")
    for proxy in proxies:
        _code, out, _err = rollout.docker.call("container", "inspect", proxy)
        for record in json.loads(out or "[]"):
            for network in networks_to_join(record, records, rollout.release):
                rollout.docker.run("network", "connect", network, proxy)


def _ask_proxy(
    rollout: Rollout,
    container: str,
    what: str,
    *command: str,
    instead: Sequence[str] | None = None,
) -> None:
    """Run a command in nginx's container.

    Args:
        rollout: its state.
        container: its id.
        what: what its failure means.
        command: what is run.
        instead: what nginx of the release is asked where the container, which is about to be
            replaced, gives no answer or a bad one; nothing where that does not matter. None
            where the container stays.
    """
    why, unanswered = _run_in_proxy(rollout, container, *command)
    if not why:
        return
    name = container[:ID_WIDTH]
    if instead is not None:
        trouble = _run_in_new_proxy(rollout, instead) if instead else ""
        if not trouble:
            rollout.module.warn(
                composed(
                    f"Of the container of nginx that is replaced now ({name}), {what}: {why}."
                    " nginx of the release was asked instead."
                )
            )
            return
        why, unanswered = trouble, False
    serving = rollout.upstreams.serving if rollout.upstreams else ""
    rollout.fail(
        f"{what} of release {rollout.release}; requests go to release {serving or 'none'}:"
        f" {why}{_restart_remedy(name) if unanswered else ''}"
    )


def _restart_remedy(name: str) -> str:
    return (
        f". Look at what runs in nginx's container (docker top {name}). If something in it"
        " kills or stops what is run there, put another in its place: docker restart"
        f" {name}, which cuts requests off for a second, then deploy again"
    )


def _run_in_proxy(rollout: Rollout, container: str, *command: str) -> tuple[str, bool]:
    """Run a command in nginx's container; return why it failed, and whether nothing answered.

    A container whose processes something stops or kills costs a run PROXY_COMMAND_SECONDS.
    """
    words = [rollout.docker.cli, "exec", container, *command]
    try:
        done = capture(words, "", PROXY_COMMAND_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        late = isinstance(error, subprocess.TimeoutExpired)
        why = f"no end within {PROXY_COMMAND_SECONDS} s" if late else str(error)
        return f"`{' '.join(command[:3])}`: {why}", late
    if done.cut or done.returncode == 0:
        return ("it printed without an end" if done.cut else ""), done.cut
    output = quote_last_lines(done.stderr or done.stdout) or f"exit code {done.returncode}"
    return output, done.returncode in NO_ANSWER


def _run_in_new_proxy(rollout: Rollout, command: Sequence[str]) -> str:
    """Run a command in a container that is made for it as the release's nginx; return why not.

    It is on the same networks, and has the same configuration.
    """
    docker, project = rollout.docker, rollout.params["project_name"]
    name = f"{project}-{PROXY}-check"
    words = [docker.cli, "compose", "--project-name", project, "run", "--rm"]
    words += ["--no-deps", "--no-TTY", "--name", name, "--entrypoint", command[0], PROXY]
    try:
        done = capture([*words, *command[1:]], "", PROXY_COMMAND_SECONDS, rollout.folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        docker.call("rm", "--force", name)
        return str(error)
    return (compose_error(done.stderr or done.stdout) or "failed") if done.returncode else ""


def wait_for_accepting(containers: list[Container]) -> None:
    """Wait until web containers that are to stop have accepted every connection.

    A server that is told to stop closes its socket, and whoever stands in its queue with a
    request is cut off: a server with busy synchronous workers has such a queue.
    """
    deadline = time.monotonic() + ACCEPT_SECONDS
    while containers and time.monotonic() < deadline:
        time.sleep(SETTLE_SECONDS)  # also for what nginx was just about to send
        containers = [c for c in containers if waiting_connections(c.pid)]
