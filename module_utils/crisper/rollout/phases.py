"""The phases of a stack's rollout on one host, as M(compose_rollout) takes them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..celery.findings import describe_findings
from ..controller import orphaned
from ..docker.client import Begun, Engine, Watch, shown
from ..docker.diagnosis import Report, compose_error, describe
from ..host.data_guard import DATA_SERVICES, check_data
from ..host.firewall import networks_to_join
from ..journal import Journal, NotOwnerError, began_at, note
from ..output import quote_last_lines
from ..process import capture
from ..proxy.upstream import Upstreams, waiting_connections
from ..remote.run import ShipError
from ..text import composed
from .distrust import ID_WIDTH
from .plan import (
    CREATE,
    KEEP,
    RECREATE,
    REMOVE,
    ROLLED,
    Container,
    Step,
    batches,
    decide,
    node_name,
    not_ready,
)
from .suspects import older_workers, replacement_warning, suspects, worker_findings
from .workers import Workers, remedy

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Between two looks at containers: when nothing happened, and when the engine tells no events.
LOOK_SECONDS, POLL_SECONDS = 2.0, 0.25
# New containers that start at once: an import of an application takes a processor for seconds.
STARTING_PER_PROCESSOR = 4
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
# Until an nginx that is replaced is killed. It takes no new connection while it waits for what is
# under way, and streams never end by themselves: all users would wait for stop_grace_period.
PROXY_SECONDS = 5
# Until a web container that is to stop has accepted what waits at its socket; between two looks.
ACCEPT_SECONDS, SETTLE_SECONDS = 30.0, 0.1


class Rollout:
    """Phases of one stack's rollout; `result` is what there is to tell, also when one fails."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.release = module.params["release"]
        self.folder = module.params["project_src"]
        self.engine = Engine(module, module.params["project_name"], self.seen)
        self.watch: Watch | None = None
        live = module.params["live"]
        self.upstreams = Upstreams(live, module.params["services"]) if live else None
        asked = module.params["workers"]
        try:
            self.workers = Workers(asked, module.params["docker_cli"]) if asked else None
        except ValueError as error:
            module.fail_json(msg=str(error))
        self.leaving: dict[str, list[str]] = {}  # nodes, while they are being told
        self.beats: dict[str, list[str]] = {}  # services of kind `single` -> ids of the old ones
        self.ending: Begun | None = None  # of those
        self.stopping: Begun | None = None  # of the old containers, whose names by id are
        self.retired: dict[str, str] = {}
        self.replaced: dict[str, str] = {}  # suspect workers of the release, names by id
        self.replacing: list[tuple[Begun, dict[str, str]]] = []  # what stops them, and whom
        self.suspicion = ""  # why they are replaced
        self.redefined: list[str] = []  # services of kind `fixed`
        self.result: dict[str, Any] = {"changed": False}

    def run(self) -> dict[str, Any]:
        """Take the phases that were asked for; what there is to tell."""
        phases, result = self.params["phases"], self.result
        if "start" not in phases or self.module.check_mode:
            self.compare()
        steps, containers = self.plan()
        result |= self.told(steps, containers)
        if self.module.check_mode:
            result["changed"] = bool(phases) and any(step.action != KEEP for step in steps)
            return result
        if {"start", "swap"} & set(phases):
            self.guard_data(steps)
        if "start" in phases:
            self.start(steps, containers)
            now, containers = self.plan()
            fixed = {step.service: step for step in now if step.kind == "fixed"}
            steps = [fixed.get(step.service, step) for step in steps]
            result["steps"] = [step.as_dict() for step in steps]
            result["nodes"] = self.nodes(containers)
        if "leave" in phases:
            self.leave(containers)
        if "swap" in phases:
            self.swap(steps)
        self.left()
        held = bool(result.get("held"))
        if "retire" in phases:
            if "swap" not in phases and not held:
                self.settle()  # of beat that an earlier call has started
            self.let_go(held)
        self.beat()
        if "prove" in phases and not held:
            self.ask()
        if "retire" in phases:
            self.retire(held)
        if "prove" in phases and not held:
            self.prove()
        return result

    def seen(self) -> dict[str, Any]:
        """The result so far, when nothing goes on any more that was begun.

        Who was told to leave must be known whatever fails meanwhile, and who undoes it must not
        find containers running that are about to stop.
        """
        if self.leaving:
            self.result["left"], _wrong = self.asked().left(self.leaving["new"])
            self.leaving = {}
        ending, self.ending = self.ending, None
        if ending:
            ending.wait()
        if self.stopping or self.replacing:
            self.stopped()
        return self.result

    def fail(self, message: str, **more: Any) -> NoReturn:
        """End with what is known."""
        self.module.fail_json(msg=composed(message), **{**self.seen(), **more})
        raise AssertionError  # fail_json has ended the process

    def note(self, step: str) -> None:
        """Write the step into the journal, before anything of it is done.

        Nothing more is begun for a controller that is gone: nobody would undo what fails.
        """
        if orphaned():
            self.fail(f"The controller is gone; step {step} was not begun.")
        try:
            note(self.params, step)
        except NotOwnerError as error:
            self.fail(str(error))

    def plan(self) -> tuple[list[Step], list[Container]]:
        """What is to be done, and what there is."""
        containers = [self.answered(container) for container in self.containers()]
        return decide(self.params["services"], containers, self.release, self.redefined), containers

    def containers(self) -> list[Container]:
        """Return the stack's containers without workers that were replaced and are about to go."""
        return [c for c in self.engine.containers() if c.id not in self.replaced]

    def answered(self, container: Container) -> Container:
        """The container; a worker that has answered works, whenever the next look at it may be."""
        starting = bool(self.workers) and container.pool and container.health == "starting"
        if starting and node_name(container, self.params["host"]) in self.workers.answering:
            return replace(container, health="healthy")
        return container

    def compare(self) -> None:
        """Find out which services have another definition now."""
        services, containers = self.params["services"], self.engine.containers()
        self.redefined = self.engine.definitions_changed(services, containers, self.folder)

    def rest(self, *besides: Any) -> None:
        """Until there is something new to see, or to read from the streams `besides`."""
        self.watch = self.watch or Watch(self.engine)
        self.watch.sleep(LOOK_SECONDS, POLL_SECONDS, *besides)

    def describe_findings(self, steps: list[Step], containers: list[Container]) -> dict[str, Any]:
        """A plan as results show it."""
        plan: dict[str, Any] = {
            "steps": [step.as_dict() for step in steps],
            "nodes": self.nodes(containers),
            "containers": shown(containers),
        }
        if self.upstreams:
            plan["serving"] = self.upstreams.serving
        return plan

    def nodes(self, containers: list[Container]) -> dict[str, list[str]]:
        """Celery node names of the running workers, of this release and of others."""
        found: dict[str, list[str]] = {"new": [], "old": []}
        for container in containers:
            if container.pool and container.state == "running":
                which = "new" if container.release == self.release else "old"
                found[which].append(node_name(container, self.params["host"]))
        return found

    def start(self, steps: list[Step], containers: list[Container]) -> None:
        """Start the release's web and worker containers beside the old ones; wait for health."""
        wanted = [s for s in steps if s.kind in ROLLED and s.action not in (KEEP, REMOVE)]
        if not wanted:
            self.compare()
            return
        self.note("start")
        dead = [c for c in containers if c.state not in ("running", "restarting")]
        dead = [c for c in dead if c.service in {step.service for step in wanted}]
        if dead:
            # `up` would start them again, old release or not.
            self.engine.run("rm", "--force", *(container.id for container in dead))
        gone = {container.id for container in dead}
        before = {container.id for container in containers} - gone
        old = {step.service: len(set(step.old) - gone) for step in wanted}
        self.start_beside(wanted, old, before)

    def start_beside(self, wanted: list[Step], old: dict[str, int], before: set[str]) -> None:
        """Start what is missing of these services in batches, and wait for health.

        Args:
            wanted: what happens to them.
            old: service -> containers beside the new ones that stay.
            before: ids of containers that are there.
        """
        self.watch = self.watch or Watch(self.engine)
        together = STARTING_PER_PROCESSOR * len(os.sched_getaffinity(0))
        # None where a service has too many containers of the release, and nothing is missing.
        fresh, goes = [], batches(wanted, together)
        if goes:
            fresh = self.add(goes[0], old, before)
        self.compare()  # the containers take their time now
        for batch in goes[1:]:
            self.wait(fresh, together // 2)
            fresh = self.add(batch, old, before)
        self.wait(fresh)
        self.result["changed"] = True

    def add(self, batch: dict[str, int], old: dict[str, int], before: set[str]) -> list[str]:
        """Start containers of the release; return the ids of all that were started so far.

        Args:
            batch: service -> containers of the release that must run afterwards.
            old: service -> containers beside them that stay.
            before: ids of containers that were there before the first of the release.
        """
        scales = chain.from_iterable(
            ("--scale", f"{service}={old[service] + number}") for service, number in batch.items()
        )
        # --no-recreate leaves the old ones alone; --scale makes Compose add the new beside them.
        arguments = ["up", "--detach", "--no-deps", "--no-recreate", "--no-build", *scales, *batch]
        project = ("compose", "--project-name", self.params["project_name"])
        code, out, err = self.engine.call(*project, *arguments, folder=self.folder)
        fresh = [c.id for c in self.engine.containers() if c.service in old and c.id not in before]
        if code != 0:
            self.give_up(fresh, f"Compose could not start them: {compose_error(err or out)}")
        return fresh

    def wait(self, ids: list[str], starting: int = 0) -> None:
        """Wait until all but `starting` are healthy or answer.

        At the first that cannot become so, undo and fail.
        """
        deadline = time.monotonic() + self.params["wait_timeout"]
        while True:
            self.listen()
            now = [self.answered(container) for container in self.engine.inspect(ids)]
            lost = [c for c in now if c.state in ("exited", "dead", "restarting")]
            lost += [c for c in now if c.health == "unhealthy"]
            if lost or len(now) < len(ids):
                self.give_up(ids, "They did not become healthy")
            if sum(not container.fit for container in now) <= starting:
                return
            if time.monotonic() > deadline:
                self.give_up(ids, f"Not healthy within {self.params['wait_timeout']} s")
            self.prepare(now)
            if self.workers:
                self.workers.ping(self.nodes(now)["new"])  # those of a later batch, too
            self.rest(*self.listen())

    def listen(self) -> Sequence[Any]:
        """Hear who has answered by now; the streams on which more may come."""
        return self.workers.listen() if self.workers else ()

    def give_up(self, ids: list[str], why: str) -> NoReturn:
        """Remove what was started; old containers, if there are any, never stopped serving."""
        containers = self.engine.inspect(ids) if ids else []
        failures = self.failures(containers)
        if ids:
            self.discard(ids, containers)
        self.fail(
            f"New containers of release {self.release} were started and removed again: {why}."
            f"{' What ran before still serves.' if self.served_before() else ''}"
            f"{self.suspicion}{describe(failures)}",
            failures=[each.as_dict() for each in failures],
        )

    def discard(self, ids: list[str], containers: list[Container]) -> None:
        """Remove new containers that are not wanted after all.

        Nobody sends requests to their web, but a worker takes tasks from its first second on: it
        gets SIGTERM and its stop_grace_period to finish them. A kill would lose what a worker has
        acknowledged early, and have the rest run twice.
        """
        workers = {c.id: c.name for c in containers if c.pool and c.state == "running"}
        if others := [identity for identity in ids if identity not in workers]:
            self.engine.run("rm", "--force", "--volumes", *others)
        if not workers:
            return
        self.engine.run("stop", *workers)
        records = json.loads(self.engine.run("container", "inspect", *workers))
        self.warn_of_killed(workers, records)
        self.engine.run("rm", "--force", "--volumes", *workers)

    def served_before(self) -> bool:
        """Return whether another release serves: nginx sends requests to it, or its web runs."""
        if self.upstreams and self.upstreams.serving not in ("", self.release):
            return True
        services = self.params["services"]
        webs = {name for name, service in services.items() if service["kind"] == "web"}
        return any(
            c.service in webs and c.state == "running" and c.release not in ("", self.release)
            for c in self.engine.containers()
        )

    def failures(self, containers: list[Container]) -> list[Report]:
        """Return why those of the containers that are not fit are so."""
        return self.engine.diagnose([c.id for c in containers if not c.fit])

    def asked(self) -> Workers:
        """Who asks the workers."""
        if self.workers is None:
            self.module.fail_json(msg="The phases leave and prove need the option workers.")
        return self.workers

    def prepare(self, containers: list[Container]) -> None:
        """Have the application imported in a container of the release, as soon as one serves.

        The new workers are pinged from then on until all have answered: that is known before the
        engine's next look at their health.
        """
        if self.workers is None or self.workers.session is not None:
            return
        for container in containers:
            mine = container.service == self.workers.asked["service"]
            if mine and container.release == self.release and container.fit:
                try:
                    self.workers.begin(container.id, self.nodes(containers)["new"])
                except ShipError as error:
                    self.fail(str(error), problem=error.problem)
                return

    def leave(self, containers: list[Container]) -> None:
        """Tell the old workers to leave their queues and ask the new ones; `left` waits for it."""
        nodes = self.nodes(containers)
        self.result |= {"nodes": nodes, "held": []}
        if not nodes["old"]:
            return
        self.note("leave")
        self.prepare(containers)
        try:
            self.asked().leave(nodes["old"], nodes["new"])
        except ShipError as error:
            self.fail(f"{error}. {remedy(error.problem)}", problem=error.problem)
        self.leaving = nodes

    def left(self) -> None:
        """The old workers take nothing new, and the new ones are as they should be, or it fails."""
        if not self.leaving:
            return
        nodes, self.leaving = self.leaving, {}
        left, wrong = self.asked().left(nodes["new"])
        self.result |= {"left": left, "held": sorted(set(nodes["old"]) - set(left["drained"]))}
        self.result["changed"] |= bool(left["queues"])
        if left.get("findings"):
            findings = self.mend(self.look(), self.look)
            left |= {"findings": findings, "problem": left["problem"] if findings else ""}
            wrong = describe_findings(findings)
        if wrong:
            self.fail(wrong, problem=left["problem"])
        if left["silent"]:
            self.module.warn(
                f"No answer from {', '.join(left['silent'])}. Does the container run (docker ps),"
                " and is it connected to the broker (its log)?"
            )
        if left.get("consuming"):
            self.module.warn(
                f"{', '.join(left['consuming'])} did not leave its queues when it was told to. It"
                " is stopped all the same; its log may tell why."
            )

    def look(self) -> list[dict[str, Any]]:
        """Return the findings over the workers of the release at another look."""
        _steps, containers = self.plan()
        try:
            return self.asked().look(self.nodes(containers)["new"])
        except ShipError as error:
            self.fail(f"{error}. {remedy(error.problem)}", problem=error.problem)

    def mend(
        self, findings: list[dict[str, Any]], ask: Callable[[], list[dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        """Replace workers that were there before this run as long as there are findings.

        At first those that are named, then all: one may answer in the name of others. Findings
        over workers that this run has started stay findings.

        Args:
            findings: over the workers of the release.
            ask: returns them again.
        """
        for everyone in (False, True):
            chosen = suspects(findings, self.older(), self.params["host"], everyone=everyone)
            if not chosen:
                break
            self.replace_workers(chosen, findings)
            findings = ask()
        return findings

    def older(self) -> list[Container]:
        """Return the workers of the release that were there before this run."""
        run = self.params["run"]
        if not run:
            return []
        began = began_at(Journal(run["root"], run["id"]).entries(), run["id"])
        return older_workers(self.containers(), self.release, began)

    def replace_workers(self, chosen: list[Container], findings: list[dict[str, Any]]) -> None:
        """Start others in the place of these workers of the release, and have these stop.

        They get SIGTERM and their stop_grace_period as any worker that goes: one of them may work
        well, while another answers in its name.
        """
        self.note("start")
        warning = replacement_warning(chosen, findings, self.release)
        self.suspicion = f"\nThey were to take the place of others: {warning}"
        alive = {c.id: c.name for c in chosen if c.state in ("running", "restarting")}
        if dead := [c.id for c in chosen if c.id not in alive]:
            self.engine.run("rm", "--force", "--volumes", *dead)
        self.replaced |= alive
        steps, containers = self.plan()
        services = {container.service for container in chosen}
        wanted = [s for s in steps if s.service in services and s.action != KEEP]
        stay = Counter(container.service for container in chosen if container.id in alive)
        old = {step.service: len(step.old) + stay[step.service] for step in wanted}
        before = {container.id for container in containers} | set(self.replaced)
        self.start_beside(wanted, old, before)
        self.module.warn(warning)
        self.suspicion = ""
        if alive:
            stop = self.engine.begin("stop", *self.stop_limits(), *alive)
            self.replacing.append((stop, alive))

    def guard_data(self, steps: list[Step]) -> None:
        """End before a data service is made whose data is elsewhere, or in other hands."""
        wanted = [s.service for s in steps if s.service in DATA_SERVICES and s.action == CREATE]
        if not wanted:
            return
        root = Path(self.folder).resolve().parent.parent  # <root>/releases/<release>
        for each in check_data(self.engine.call, root, self.params["project_name"])[:1]:
            self.fail(f"{', '.join(wanted)} cannot be started: {each.message}. {each.remedy}.")

    def swap(self, steps: list[Step]) -> None:
        """Replace what belongs to no release, in place, and have the old beat end (see `beat`)."""
        wanted = [s for s in steps if s.kind not in ROLLED and s.action in (CREATE, RECREATE)]
        if not wanted:
            return
        self.note("swap")
        self.beats = {step.service: list(step.old) for step in wanted if step.kind == "single"}
        if old := list(chain.from_iterable(self.beats.values())):
            self.ending = self.engine.begin("stop", *old)
        if any(step.service == PROXY for step in wanted):
            # It begins with the release's configuration. The one that it replaces may be broken or
            # compromised: what it says refuses nothing.
            self.switch(*self.plan(), replaced=True)
        fixed = [step.service for step in wanted if step.kind == "fixed"]
        wait = ("--wait", "--wait-timeout", str(self.params["wait_timeout"]))
        if PROXY in fixed:
            self.up([PROXY], "--timeout", str(PROXY_SECONDS), *wait)
        if others := [service for service in fixed if service != PROXY]:
            self.up(others, *wait)
        self.result["changed"] = True

    def beat(self) -> None:
        """Start beat when the old one is gone: two would send every scheduled task twice."""
        beats, self.beats = self.beats, {}
        ending, self.ending = self.ending, None
        if ending:
            ending.end()
            self.engine.run("rm", "--force", *chain.from_iterable(beats.values()))
        if beats:
            self.up(list(beats))

    def up(self, services: list[str], *options: str) -> None:
        """Have Compose create and start services of the release, in place."""
        project = ("compose", "--project-name", self.params["project_name"])
        always = ("up", "--detach", "--no-deps", "--no-build")
        code, out, err = self.engine.call(
            *project, *always, *options, *services, folder=self.folder
        )
        if code != 0:
            mine = [c for c in self.engine.containers() if c.service in services]
            failures = self.failures(mine)
            self.fail(
                f"{', '.join(services)} of release {self.release} did not start:"
                f" {compose_error(err or out)}.{describe(failures)}",
                failures=[each.as_dict() for each in failures],
            )

    def settle(self) -> None:
        """Until no container of the release is starting any more, and beat is healthy.

        What the others have become is in the look afterwards, and for who judges it.
        """
        services = self.params["services"]
        singles = {name for name, service in services.items() if service["kind"] == "single"}
        deadline = time.monotonic() + self.params["wait_timeout"]
        while True:
            mine = [
                container
                for container in self.containers()
                if container.release == self.release and container.id not in self.retired
            ]
            beats = [container for container in mine if container.service in singles]
            lost = [c for c in beats if c.state != "running" or c.health == "unhealthy"]
            waited = [c for c in mine if c.state == "running" and c.health == "starting"]
            if not lost and not waited:
                return
            if lost or time.monotonic() > deadline:
                failures = self.failures(lost or waited)
                self.fail(
                    f"{', '.join(sorted(c.name for c in lost or waited))} of release"
                    f" {self.release} did not become healthy."
                    + ("" if self.retired else " The old workers still run.")
                    + describe(failures),
                    failures=[each.as_dict() for each in failures],
                )
            self.rest()

    def switch(
        self, steps: list[Step], containers: list[Container], replaced: bool = False
    ) -> None:
        """Have nginx send all requests to the release from now on.

        Containers that get none any more finish those that they have.

        Args:
            replaced: whether nginx's container is about to be replaced.
        """
        upstreams = self.upstreams
        if upstreams is None:
            return
        proxies = [c.id for c in containers if c.service == PROXY and c.state == "running"]
        if self.params["reload"]:
            script = [*UPSTREAMS, "reload"]
            command = script if (upstreams.folder / SCRIPT).is_file() else ["sh", "-c", RELOAD]
            for proxy in proxies:
                what = "nginx does not take the configuration"
                self.proxy(proxy, what, *command, instead=TEST if replaced else None)
        if not upstreams.services or upstreams.serving == self.release:
            return
        missing = not_ready(step for step in steps if step.kind == "web")
        if missing:
            self.fail(
                f"Requests stay with release {upstreams.serving or 'none'}, because the new"
                f" containers do not serve: {'; '.join(missing)}. Run the deploy again; it starts"
                " what is missing."
            )
        self.note("switch")
        self.join(proxies, containers)
        upstreams.prepare(self.release)
        for proxy in proxies:
            what, ready = "nginx finds no healthy containers", (*UPSTREAMS, "ready", self.release)
            self.proxy(proxy, what, *ready, instead=ready if replaced else None)
        upstreams.switch(self.release)
        self.result |= {"changed": True, "serving": self.release}
        # Replicas of the release that served may have been out of the rotation.
        for proxy in proxies:
            what = "nginx does not take up the replicas"
            self.proxy(proxy, what, *UPSTREAMS, "release", instead=() if replaced else None)

    def join(self, proxies: Sequence[str], containers: Sequence[Container]) -> None:
        """Have nginx reach web containers whose networks another edition of it is not on.

        It is created anew only later, with requests to the release from its first one on.
        """
        webs = {
            name for name, service in self.params["services"].items() if service["kind"] == "web"
        }
        mine = [c.id for c in containers if c.service in webs and c.release == self.release]
        if not mine or not proxies:
            return
        _code, out, _err = self.engine.call("container", "inspect", *mine)
        asked = json.loads(out or "[]")
        for proxy in proxies:
            _code, out, _err = self.engine.call("container", "inspect", proxy)
            for record in json.loads(out or "[]"):
                for network in networks_to_join(record, asked, self.release):
                    self.engine.run("network", "connect", network, proxy)

    def proxy(
        self, container: str, what: str, *command: str, instead: Sequence[str] | None = None
    ) -> None:
        """Run a command in nginx's container.

        Args:
            what: what its failure means.
            instead: what nginx of the release is asked where the container, which is about to be
                replaced, gives no answer or a bad one; nothing where that does not matter. None
                where the container stays.
        """
        why, unanswered = self.run_in_proxy(container, *command)
        if not why:
            return
        name, remedy = container[:ID_WIDTH], ""
        if instead is not None:
            trouble = self.run_in_new_proxy(instead) if instead else ""
            if not trouble:
                self.module.warn(
                    composed(
                        f"Of the container of nginx that is replaced now ({name}), {what}: {why}."
                        " nginx of the release was asked instead."
                    )
                )
                return
            why, unanswered = trouble, False
        if unanswered:
            remedy = (
                f". Look at what runs in nginx's container (docker top {name}). If something in it"
                " kills or stops what is run there, put another in its place: docker restart"
                f" {name}, which cuts requests off for a second, then deploy again"
            )
        serving = self.upstreams.serving if self.upstreams else ""
        self.fail(
            f"{what} of release {self.release}; requests go to release {serving or 'none'}:"
            f" {why}{remedy}"
        )

    def run_in_proxy(self, container: str, *command: str) -> tuple[str, bool]:
        """Run a command in nginx's container; return why it failed, and whether nothing answered.

        A container whose processes something stops or kills costs a run PROXY_COMMAND_SECONDS.
        """
        try:
            done = capture(
                [self.engine.cli, "exec", container, *command], "", PROXY_COMMAND_SECONDS
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            late = isinstance(error, subprocess.TimeoutExpired)
            why = f"no end within {PROXY_COMMAND_SECONDS} s" if late else str(error)
            return f"`{' '.join(command[:3])}`: {why}", late
        if done.cut or done.returncode == 0:
            return ("it printed without an end" if done.cut else ""), done.cut
        output = quote_last_lines(done.stderr or done.stdout) or f"exit code {done.returncode}"
        return output, done.returncode in NO_ANSWER

    def run_in_new_proxy(self, command: Sequence[str]) -> str:
        """Run a command in a container that is made for it as the release's nginx; return why not.

        It is on the same networks, and has the same configuration.
        """
        name = f"{self.params['project_name']}-{PROXY}-check"
        words = ["compose", "--project-name", self.params["project_name"], "run", "--rm"]
        words += ["--no-deps", "--no-TTY", "--name", name, "--entrypoint", command[0], PROXY]
        try:
            done = capture(
                [self.engine.cli, *words, *command[1:]], "", PROXY_COMMAND_SECONDS, self.folder
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            self.engine.call("rm", "--force", name)
            return str(error)
        return (compose_error(done.stderr or done.stdout) or "failed") if done.returncode else ""

    def accept(self, containers: list[Container]) -> None:
        """Wait until web containers that are to stop have accepted every connection.

        A server that is told to stop closes its socket, and whoever stands in its queue with a
        request is cut off: a server with busy synchronous workers has such a queue.
        """
        deadline = time.monotonic() + ACCEPT_SECONDS
        while containers and time.monotonic() < deadline:
            time.sleep(SETTLE_SECONDS)  # also for what nginx was just about to send
            containers = [c for c in containers if waiting_connections(c.pid)]

    def let_go(self, held: bool) -> None:
        """Have what the release does not want stop; `held` keeps workers that still work."""
        steps, containers = self.plan()
        self.switch(steps, containers)
        if self.upstreams and not self.upstreams.services:
            self.upstreams.leave()  # its own nginx, which knows no link, runs by now
        rolled = [s for s in steps if s.action == REMOVE or (s.kind in ROLLED and s.action != KEEP)]
        if held:
            rolled = [s for s in rolled if s.kind == "web" and s.action != REMOVE]
        self.result["stopped"] = {}
        ids = [identity for step in rolled for identity in step.old]
        if not ids:
            return
        missing = not_ready(steps)
        if missing:
            self.fail(
                "The old containers stay, because the new ones do not serve: "
                + "; ".join(missing)
                + ". Run the deploy again; it starts what is missing."
            )
        self.note("retire")
        web = {step.service for step in rolled if step.kind == "web"}
        self.accept([c for c in containers if c.id in ids and c.service in web and c.pid])
        host, overdue = self.params["host"], set(self.params["overdue"])
        late = [c.id for c in containers if c.id in ids and node_name(c, host) in overdue]
        if late:
            self.engine.run("kill", "--signal", "QUIT", *late)
        names = {container.id: container.name for container in containers}
        self.retired = {identity: names[identity] for identity in ids}
        self.stopping = self.engine.begin("stop", *self.stop_limits(), *ids)
        self.result["changed"] = True
        if queues := self.result.get("left", {}).get("queues"):
            # Nobody is left to take them up again.
            gone = {node_name(c, host) for c in containers if c.id in ids}
            self.result["left"]["queues"] = {n: q for n, q in queues.items() if n not in gone}

    def stop_limits(self) -> list[str]:
        """Return the option of `docker stop` that limits it, where a limit is given."""
        limit = self.params["stop_timeout"]
        return ["--time", str(limit)] if limit is not None else []

    def stopped(self) -> None:
        """When they have stopped: exit codes by container name; then they are removed."""
        self.stop_replaced()
        stopping, self.stopping = self.stopping, None
        if not stopping:
            return
        stopping.end()
        records = json.loads(self.engine.run("container", "inspect", *self.retired))
        self.result["stopped"] = self.warn_of_killed(self.retired, records)
        self.engine.run("rm", "--force", "--volumes", *self.retired)
        if self.upstreams:
            self.upstreams.prune()

    def stop_replaced(self) -> None:
        """Wait until replaced workers have stopped, and remove them."""
        replacing, self.replacing = self.replacing, []
        for stop, names in replacing:
            stop.wait()
            _code, out, _err = self.engine.call("container", "inspect", *names)
            self.warn_of_killed(names, json.loads(out or "[]"))
            self.engine.run("rm", "--force", "--volumes", *names)

    def warn_of_killed(
        self, names: dict[str, str], records: list[dict[str, Any]]
    ) -> dict[str, int]:
        """Warn of stopped containers that did not end in time; return exit codes by name.

        Args:
            names: container id -> name.
            records: of ``docker container inspect``.
        """
        codes = {names[record["Id"]]: int(record["State"]["ExitCode"]) for record in records}
        killed = sorted(name for name, code in codes.items() if code == 137)
        if killed:
            self.module.warn(
                f"{', '.join(killed)} did not stop in time and was killed: tasks that a worker held"
                " come back after celery_visibility_timeout. Raise celery_stop_grace_period."
            )
        return codes

    def retire(self, held: bool) -> None:
        """Wait until the old containers are gone and beat is healthy, and look again."""
        if not held:
            self.settle()
        self.stopped()
        if not held:
            if self.redefined:
                self.compare()
            self.result["after"] = {"release": self.release, **self.told(*self.plan())}

    def ask(self, canaries: Mapping[str, Any] | None = None) -> None:
        """Every worker is asked everything, and canaries are sent; `prove` has what came of it.

        Where all canaries of a question before are accounted for, `canaries`, none are sent.
        """
        containers = self.containers()
        self.prepare(containers)
        services = self.params["services"].values()
        count = sum(service["replicas"] for service in services if service["kind"] == "worker")
        self.asked().ask(self.nodes(containers)["new"], count, canaries)

    def prove(self) -> None:
        """What came of `ask`; it fails nothing."""
        proof = self.asked().proof()
        canaries = proof.get("canary", {})
        if proof["findings"] or canaries.get("findings"):
            # An old worker may have answered that is gone now. A busy pool is not waited for twice.
            self.ask(canaries if canaries and not canaries["findings"] else None)
            proof = self.asked().proof()
        self.result["proof"] = proof
        findings = worker_findings(proof)
        if "retire" in self.params["phases"] and (findings or self.unfit_workers()):
            self.mend(findings, self.prove_again)

    def unfit_workers(self) -> bool:
        """Return whether workers of the release were not as they should be at the last look."""
        steps = self.result["after"]["steps"]
        return any(step["kind"] == "worker" and step["action"] != KEEP for step in steps)

    def prove_again(self) -> list[dict[str, Any]]:
        """Ask everybody anew when replaced workers are gone; return the findings."""
        self.retire(held=False)
        self.ask()
        self.result["proof"] = self.asked().proof()
        return worker_findings(self.result["proof"])
