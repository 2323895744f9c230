"""State of a rollout, and what all its phases do: look, write a step down, wait, fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

from ..controller import orphaned
from ..docker.client import DockerClient, EventWatcher, summarize
from ..docker.diagnosis import Report
from ..journal import NotOwnerError, note
from ..proxy.upstream import Upstreams
from ..remote.run import RemoteError
from ..text import composed
from .plan import Container, Step, decide, node_name
from .workers import Workers

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Between two looks at containers: when nothing happened, and when the engine tells no events.
LOOK_SECONDS, POLL_SECONDS = 2.0, 0.25


@dataclass
class Rollout:
    """Rollout of one stack on one host; `result` is what the module returns, also when it fails."""

    module: AnsibleModule
    upstreams: Upstreams | None = None
    workers: Workers | None = None
    # Names by id: of old containers that were told to stop, and of workers that others replace.
    stopping: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    redefined: list[str] = field(default_factory=list)  # services of kind `stateful`
    # Why web containers without a health check do not answer, by id; empty for those that do.
    unanswered: dict[str, str] = field(default_factory=dict)
    # What goes on in the background: how each is brought to its end.
    pending: dict[str, Callable[[], object]] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=lambda: {"changed": False})

    def __post_init__(self) -> None:
        """Take the module's options; the Docker client tells the result when a command fails."""
        self.params: Mapping[str, Any] = self.module.params
        self.docker = DockerClient(self.module, self.params["project_name"], self.finish)
        self.watcher: EventWatcher | None = None

    @property
    def release(self) -> str:
        """Id of the release that is to run."""
        return str(self.params["release"])

    @property
    def folder(self) -> str:
        """Folder of the release."""
        return str(self.params["project_src"])

    @property
    def services(self) -> Mapping[str, Mapping[str, Any]]:
        """Service to ``{kind, replicas}``."""
        services: Mapping[str, Mapping[str, Any]] = self.params["services"]
        return services

    def services_of_kind(self, kind: str) -> set[str]:
        """Return the names of the services of a kind."""
        return {name for name, service in self.services.items() if service["kind"] == kind}

    def finish(self) -> dict[str, Any]:
        """Bring to its end what goes on in the background; return the result so far.

        The old workers that were told to leave must be known whatever fails meanwhile, and an undo
        must not find containers running that are about to stop.
        """
        while self.pending:
            self.end(next(iter(self.pending)))
        return self.result

    def end(self, name: str) -> None:
        """Bring to its end what goes on under this name, if anything does."""
        if end := self.pending.pop(name, None):
            end()

    def fail(self, message: str, **more: Any) -> NoReturn:
        """End the module with what roles read of a failure: Ansible prints all of the result."""
        result = {k: v for k, v in self.finish().items() if k != "containers"}
        self.module.fail_json(msg=composed(message), **{**result, **more})
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

    def containers(self) -> list[Container]:
        """Return the stack's containers without workers that were replaced and are about to go."""
        return [c for c in self.docker.containers() if c.id not in self.replaced]

    def plan(self) -> tuple[list[Step], list[Container]]:
        """Return what is to be done, and the containers that there are."""
        containers = [self.with_answer(container) for container in self.containers()]
        return decide(self.services, containers, self.release, self.redefined), containers

    def with_answer(self, container: Container) -> Container:
        """Return the container; as healthy if its worker has answered before the next check."""
        starting = self.workers and container.pool and container.health == "starting"
        if starting and self.workers and self.node(container) in self.workers.answering:
            return replace(container, health="healthy")
        return container

    def compare_definitions(self) -> None:
        """Find out which services have another definition now."""
        containers = self.docker.containers()
        self.redefined = self.docker.definitions_changed(self.services, containers, self.folder)

    def watch(self) -> EventWatcher:
        """Return the watcher of the engine's events; it begins with the first call."""
        self.watcher = self.watcher or EventWatcher(self.docker)
        return self.watcher

    def wait_for_event(self, *streams: Any) -> None:
        """Wait until there is something new to see, or to read from the streams."""
        self.watch().sleep(LOOK_SECONDS, POLL_SECONDS, *streams)

    def summary(self, steps: list[Step], containers: list[Container]) -> dict[str, Any]:
        """Return a plan as results show it."""
        plan: dict[str, Any] = {
            "steps": [step.as_dict() for step in steps],
            "nodes": self.nodes(containers),
            "containers": summarize(containers),
        }
        if self.upstreams:
            plan["serving"] = self.upstreams.serving
        return plan

    def node(self, container: Container) -> str:
        """Return the Celery node name of a worker container."""
        return node_name(container, self.params["host"])

    def nodes(self, containers: list[Container]) -> dict[str, list[str]]:
        """Return Celery node names of running workers, of this release and of others."""
        found: dict[str, list[str]] = {"new": [], "old": []}
        for container in containers:
            if container.pool and container.state == "running":
                which = "new" if container.release == self.release else "old"
                found[which].append(self.node(container))
        return found

    def failures(self, containers: list[Container]) -> list[Report]:
        """Return why those of the containers that are not healthy are so."""
        return self.docker.diagnose([c.id for c in containers if not c.is_healthy])

    def asker(self) -> Workers:
        """Return the process that asks the workers."""
        if self.workers is None:
            self.module.fail_json(
                msg="The phases cancel_consumers and verify need the option workers."
            )
            raise AssertionError  # fail_json has ended the process
        return self.workers

    def begin_asking(self, containers: list[Container]) -> None:
        """Have the application imported in a container of the release, as soon as one serves.

        The new workers are pinged from then on until all have answered: that is known before the
        engine's next look at their health.
        """
        if self.workers is None or self.workers.session is not None:
            return
        for container in containers:
            mine = container.service == self.workers.options["service"]
            if mine and container.release == self.release and container.is_healthy:
                try:
                    self.workers.begin(container.id, self.nodes(containers)["new"])
                except RemoteError as error:
                    self.fail(str(error), problem=error.problem)
                return
