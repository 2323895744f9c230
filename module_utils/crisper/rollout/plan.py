"""Plan of a rollout: what it does to each service, by what runs and what is wanted.

Pure functions of plain data; ``library/compose_rollout.py`` asks the engine and acts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from ..text import printable

KEEP, CREATE, ROLL, RECREATE, REMOVE = "keep", "create", "roll", "recreate", "remove"
# web: start-first behind nginx. worker: start-first, drained by name. singleton: stop, then start.
# stateful: belongs to no release; recreated only when its own definition changed.
ROLLED = ("web", "worker")


@dataclass(frozen=True)
class Container:
    """A container of the stack as the engine tells it."""

    id: str
    name: str
    service: str
    release: str
    image: str
    state: str
    health: str
    pool: str = ""
    pid: int = 0
    created: float = 0.0  # Unix seconds, by the engine's clock; 0 where it is not known

    @property
    def is_healthy(self) -> bool:
        """Return whether it runs, and is healthy as far as it has a health check."""
        return self.state == "running" and self.health in ("healthy", "none", "")


@dataclass(frozen=True)
class Step:
    """Act on one service, and why.

    `old` are the ids of containers the release does not want; `ready` is how many of its own
    already run and are healthy.
    """

    service: str
    kind: str
    action: str
    reason: str
    old: tuple[str, ...] = ()
    replicas: int = 1
    ready: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for a module's result."""
        return {**asdict(self), "old": list(self.old)}


def parse_inspect(records: Iterable[Mapping[str, Any]]) -> list[Container]:
    """Return the containers of ``docker inspect``'s JSON, without those of ``compose run``."""
    found = []
    for record in records:
        config = record.get("Config") or {}
        labels = config.get("Labels") or {}
        state = record.get("State") or {}
        if str(labels.get("com.docker.compose.oneoff", "False")).lower() == "true":
            continue
        found.append(
            Container(
                id=str(record["Id"]),
                name=printable(record.get("Name", "")).lstrip("/"),
                service=printable(labels.get("com.docker.compose.service", "")),
                release=printable(labels.get("crisper.release", "")),
                image=str(record.get("Image", "")),
                state=printable(state.get("Status", "")),
                health=printable((state.get("Health") or {}).get("Status", "none")),
                pool=printable(labels.get("crisper.pool", "")),
                pid=int(state.get("Pid") or 0),
                created=_unix_seconds(record.get("Created")),
            )
        )
    return sorted(found, key=lambda container: (container.service, container.name))


def _unix_seconds(text: Any) -> float:
    """Return the whole seconds of a time like ``2026-11-28T07:26:00.123456789Z``; 0 for others."""
    try:
        moment = datetime.strptime(str(text)[:19], "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return 0.0
    return moment.replace(tzinfo=timezone.utc).timestamp()


def decide(
    services: Mapping[str, Mapping[str, Any]],
    containers: Sequence[Container],
    release: str,
    changed_definitions: Iterable[str],
) -> list[Step]:
    """Return one step per service, in the order of `services`, then what is to be removed.

    Args:
        services: name -> ``{kind, replicas}`` of every service of the release.
        containers: what the engine has of this stack.
        release: id of the release that is to run.
        changed_definitions: services of kind ``stateful`` whose definition or image differs from
            the one that runs.
    """
    changed = set(changed_definitions)
    steps = []
    for name, service in services.items():
        mine = [container for container in containers if container.service == name]
        steps.append(_step(name, service, mine, release, name in changed))
    for name in sorted({container.service for container in containers} - set(services)):
        old = tuple(container.id for container in containers if container.service == name)
        steps.append(Step(name, "stateful", REMOVE, "the release has no such service", old, 0))
    return steps


def _step(
    name: str, service: Mapping[str, Any], mine: Sequence[Container], release: str, changed: bool
) -> Step:
    kind, replicas = str(service["kind"]), int(service.get("replicas", 1))
    everything = tuple(container.id for container in mine)
    if not mine:
        return Step(name, kind, CREATE, "no container yet", (), replicas)
    if kind == "stateful":
        if changed:
            return Step(name, kind, RECREATE, "its own definition changed", everything, replicas)
        unfit = [container for container in mine if not container.is_healthy]
        if unfit:
            why = ", ".join(f"{c.name} is {_condition(c)}" for c in unfit)
            return Step(name, kind, RECREATE, why, everything, replicas)
        return Step(name, kind, KEEP, "unchanged", (), replicas)
    right = [
        container for container in mine if container.release == release and container.is_healthy
    ]
    surplus = right[replicas:]
    right = right[:replicas]
    wrong = tuple(container.id for container in mine if container not in right)
    if not wrong and len(right) == replicas:
        return Step(name, kind, KEEP, "unchanged", (), replicas)
    others = sorted({container.release or "none" for container in mine} - {release})
    if others:
        old = ", ".join(others)
        reason = f"a new release: each container has its release's id, these that of {old}"
    elif surplus:
        reason = f"{len(right) + len(surplus)} containers run, {replicas} are wanted"
    elif wrong:
        reason = ", ".join(f"{c.name} is {_condition(c)}" for c in mine if c.id in wrong)
    else:
        reason = f"{len(right)} of {replicas} containers run"
    action = RECREATE if kind == "singleton" else ROLL
    return Step(name, kind, action, reason, wrong, replicas, len(right))


def batches(steps: Iterable[Step], size: int) -> list[dict[str, int]]:
    """Return in how many goes new containers start, web services first.

    Fifty workers that import their application at once on two processors need minutes, and the
    engine's patience with each of them ends meanwhile (measured: load 113, start_period 60 s).

    Args:
        steps: what happens to services of kinds `ROLLED`.
        size: most containers that start at once; at least 2. The first go has so many, each
            later one half: it begins when half of those that start work.

    Returns:
        One mapping a go: service -> containers of the release that run when that go is over.
        Services without a new container in a go are left out of it.
    """
    waiting = [
        (step.service, number + 1)
        for step in sorted(steps, key=lambda step: step.kind != "web")
        for number in range(step.ready, step.replicas)
    ]
    later = range(size, len(waiting), size // 2)
    goes = [waiting[:size], *(waiting[first : first + size // 2] for first in later)]
    return [dict(go) for go in goes if go]


def not_ready(steps: Iterable[Step]) -> list[str]:
    """Return services whose old containers must stay, because the new ones do not serve yet."""
    return [
        f"{step.service}: {step.ready} of {step.replicas} new containers are healthy"
        for step in steps
        if step.kind in ROLLED and step.action in (ROLL, CREATE) and step.ready < step.replicas
    ]


def _condition(container: Container) -> str:
    return container.health if container.state == "running" else container.state


def recreated(dry_run: str) -> list[str]:
    """Return the names of containers that ``docker compose --dry-run up`` says it would recreate.

    Its lines read `` DRY-RUN MODE -  Container crisper-nginx-1  Recreate`` (Compose 2.26).
    """
    lines = (line.split() for line in dry_run.splitlines())
    return [
        words[words.index("Container") + 1]
        for words in lines
        if "Container" in words and words[-1] == "Recreate"
    ]


def node_name(container: Container, host: str) -> str:
    """Return the Celery node name of a worker container: ``<pool>@<host>-<release>-<hostname>``."""
    return f"{container.pool}@{host}-{container.release}-{container.id[:12]}"
