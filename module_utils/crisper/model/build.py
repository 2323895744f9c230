"""The stack as data: derive from checked variables what templates and roles read (no I/O)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from ..proxy.public_url import HealthProbe, health_probes
from .container_limits import service_limits
from .defaults import image_references
from .entry_point import entry_point
from .hooks import Hook, hooks_by_point
from .images import moving_references, registry_references
from .secrets import required_secrets
from .service_options import ServiceOptions, own_volumes, service_options, shared_paths
from .validators import size_bytes
from .workers import CeleryModel, Pool, celery_model, worker_pools


class StackModel(TypedDict):
    """The stack as templates and roles read it.

    ``pools``: the workers. ``proxy``: how browsers reach the stack: ``tls`` (source of the
    certificate, or empty), ``scheme``, ``port``, ``names``, ``host`` (the first name as URLs have
    it), ``headers``, ``public`` (what stands in browsers, see proxy.public_url), and what
    `entry_model` returns. ``probes``: what health checks ask. ``limits``: by service.
    ``rollout``: how each service is replaced, see rollout.plan. ``memory_bytes``: the sum of all
    limits. ``uploads``: folder in the application's containers, or empty. ``moving_references``:
    those that a deploy asks their registry for. ``registry_references``: all of registries, by the
    variable that holds each. ``image_refs``: of the platform images, by name. ``celery``: what the
    workers must be like. ``queues``: sorted, unique. ``service_options``: what the
    operator says of containers of the application, by service. ``own_volumes``: those of `volumes`
    that the operator names. ``shared_paths``: of the server, that containers get.
    """

    pools: list[Pool]
    proxy: dict[str, Any]
    probes: dict[str, HealthProbe]
    limits: dict[str, dict[str, Any]]
    data_services: list[str]
    services: list[str]
    rollout: dict[str, dict[str, Any]]
    memory_bytes: int
    volumes: list[str]
    own_volumes: list[str]
    shared_paths: list[dict[str, Any]]
    uploads: str
    required_secrets: list[str]
    image_refs: dict[str, str]
    moving_references: list[str]
    registry_references: dict[str, str]
    celery: CeleryModel
    hooks: dict[str, list[Hook]]
    queues: list[str]
    service_options: dict[str, ServiceOptions]


@dataclass(frozen=True)
class Services:
    """The services of a stack beside nginx and the workers, by their part in it."""

    data: tuple[str, ...]
    beat: tuple[str, ...]
    frontend: tuple[str, ...]
    backends: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Services:
        """Return the services of checked variables."""
        app = values["stack_app"]
        return cls(
            data=("postgres", "redis", "qdrant", *_only_if(values["mariadb_enabled"], "mariadb")),
            beat=_only_if(app["celery"].get("beat"), "celery-beat"),
            frontend=_only_if(app.get("frontend"), "frontend"),
            backends=int(app["web"].get("replicas", 1)),
        )

    @property
    def containers(self) -> dict[str, int]:
        """Number of containers by service."""
        single = (*self.frontend, *self.beat, *self.data)
        return {"nginx": 1, "backend": self.backends, **dict.fromkeys(single, 1)}


def _only_if(present: Any, name: str) -> tuple[str, ...]:
    return (name,) if present else ()


def stack_model(values: Mapping[str, Any]) -> StackModel:
    """Return what templates and roles read: names and numbers derived from checked variables.

    The model is kept in the release's manifest: a release that is put back is judged by its own.
    """
    app = values["stack_app"]
    services, pools = Services.of(values), worker_pools(values)
    limits = service_limits(values)
    entry = entry_point(values)
    probes = health_probes(app, entry["public"])
    return {
        "pools": pools,
        "proxy": entry,
        "probes": probes,
        "limits": limits,
        "data_services": list(services.data),
        "services": [*services.containers, *(pool["service"] for pool in pools)],
        "rollout": _rollout(services, pools, probes),
        "memory_bytes": _memory_bytes(services, pools, limits),
        "volumes": [
            *services.data,
            *_only_if(services.beat, "beat"),
            *_only_if(app.get("uploads"), "uploads"),
            "nginx-temp",
            *own_volumes(values),
        ],
        "own_volumes": own_volumes(values),
        "shared_paths": shared_paths(values),
        "uploads": app.get("uploads") or "",
        "required_secrets": required_secrets(values),
        "image_refs": image_references(values),
        "moving_references": moving_references(values),
        "registry_references": registry_references(values, ("auto", "registry")),
        "celery": celery_model(values),
        "hooks": hooks_by_point(values),
        "queues": sorted({queue for pool in pools for queue in pool["queues"]}),
        "service_options": service_options(values, _tmp_sizes(limits, pools)),
    }


def _tmp_sizes(limits: Mapping[str, Mapping[str, Any]], pools: Sequence[Pool]) -> dict[str, int]:
    """Return the size of ``/tmp`` in bytes by service."""
    sizes = {name: limit["tmp"] for name, limit in limits.items() if "tmp" in limit}
    return {**sizes, **{pool["service"]: pool["tmp"] for pool in pools}}


def _memory_bytes(
    services: Services, pools: Sequence[Pool], limits: Mapping[str, Mapping[str, Any]]
) -> int:
    """Return the sum of the limits of all containers."""
    memory = sum(
        (size_bytes(limits[name]["memory"]) or 0) * count
        for name, count in services.containers.items()
    )
    return memory + sum((size_bytes(pool["memory"]) or 0) * pool["replicas"] for pool in pools)


def _rollout(
    services: Services, pools: Sequence[Pool], probes: Mapping[str, HealthProbe]
) -> dict[str, dict[str, Any]]:
    """Return how each service is replaced; see rollout.plan."""
    return {
        **{name: {"kind": "stateful"} for name in (*services.data, "nginx")},
        **{name: _web(probes[name]) for name in services.frontend},
        "backend": {**_web(probes["backend"]), "replicas": services.backends},
        **{p["service"]: {"kind": "worker", "replicas": p["replicas"]} for p in pools},
        **{name: {"kind": "singleton"} for name in services.beat},
    }


def _web(probe: HealthProbe) -> dict[str, Any]:
    """Return how a web service is rolled out: nginx asks its containers as `probe` says."""
    return {"kind": "web", "port": probe["port"], "probe": dict(probe)}
