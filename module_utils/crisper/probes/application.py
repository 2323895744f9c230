"""Ask an application about itself, in its own image: its queues, its routes, its settings.

Runs before anything of a stack is changed: nothing of the application serves there, and no broker
is needed. What a route says for arguments that nobody knows yet is told as unknown.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..celery.application import CALLABLE, DEFAULT, TASK
from ..celery.task_info import MOST_TASKS, TASK_INFO
from .control import load_app
from .endpoints import endpoints
from .inspect import shown_conf
from .serve import Probe, redact

ROUTING = ("queue", "exchange", "routing_key")


def application_facts(app: Any) -> dict[str, Any]:
    """Return what the application says of itself.

    ``{default_queue, consumed, routes, unknown, conf, registered, ...}``: `consumed` are the queues
    of a worker without ``--queues``, `routes` has what may be sent as ``{queue, kind, name}``,
    `unknown` the routes of which nobody can tell where they lead, `uid` is the user's.
    """
    # Before any route is followed: that adds queues which no setting names.
    # A broadcast has a name of its own in each process: its alias is what --queues takes.
    queues = app.amqp.queues.consume_from.items()
    consumed = sorted(str(getattr(queue, "alias", None) or name) for name, queue in queues)
    default = str(app.conf.task_default_queue)
    routes = {default: {"queue": default, "kind": DEFAULT, "name": default}}
    unknown: dict[str, None] = {}
    for queue, kind, name in found_routes(app, consumed, unknown):
        routes.setdefault(queue, {"queue": queue, "kind": kind, "name": name})
    return {
        "default_queue": default,
        "consumed": consumed,
        "routes": sorted(routes.values(), key=lambda route: route["queue"]),
        "unknown": list(unknown),
        "conf": shown_conf(app.conf.table(with_defaults=True)),
        "registered": registered(app),
        "uid": os.getuid(),
        **endpoints(app),
    }


def own_tasks(app: Any) -> list[Any]:
    """Return the application's tasks without Celery's own, by name."""
    return [app.tasks[name] for name in sorted(app.tasks) if not name.startswith("celery.")]


def registered(app: Any) -> list[str]:
    """Return the tasks as a worker answers `registered`, with what tells a lost task."""
    return [
        task.name
        + " ["
        + " ".join(
            f"{field}={getattr(task, field)}"
            for field in TASK_INFO
            if getattr(task, field, None) is not None
        )
        + "]"
        for task in own_tasks(app)[:MOST_TASKS]
    ]


def found_routes(
    app: Any, declared: list[str], unknown: dict[str, None]
) -> Iterator[tuple[str, str, str]]:
    """Yield ``queue, kind, name`` of all that may be sent; what cannot be known goes to `unknown`.

    Args:
        app: the Celery application.
        declared: queues of task_queues, or the default queue.
        unknown: sentences' subjects, in order.
    """
    if app.conf.task_queues:
        yield from ((name, "task_queues", name) for name in declared)
    for task in own_tasks(app):
        yield from task_route(app, task, unknown)
    for index, router in enumerate(app.amqp.router.routes):
        where = "task_routes" if index == 0 else "task_routes[" + str(index) + "]"
        yield from table_routes(router, where, unknown)
    for name, entry in sorted((app.conf.beat_schedule or {}).items()):
        options = entry.get("options") if isinstance(entry, Mapping) else None
        queue = (options or {}).get("queue")
        if queue:
            yield queue_name(queue), "beat_schedule", str(name)


def task_route(app: Any, task: Any, unknown: dict[str, None]) -> Iterator[tuple[str, str, str]]:
    """Yield where a task goes that is called without options."""
    own = {key: getattr(task, key) for key in ROUTING if getattr(task, key, None)}
    try:
        route = app.amqp.router.route(dict(own), task.name, (), {}, task_type=task)
    except Exception as error:  # a function of the application that wants its arguments
        unknown["of task " + task.name + " (" + type(error).__name__ + ")"] = None
        return
    if route.get("queue"):
        yield queue_name(route["queue"]), TASK, task.name
        return
    queue = bound_to(app, route)
    if queue:
        yield queue, TASK, task.name
    else:
        unknown["of task " + task.name + " (an exchange or a routing key without a queue)"] = None


def bound_to(app: Any, route: Mapping[str, Any]) -> str:
    """Return the declared queue that has this exchange and routing key; empty for none."""
    exchange = route.get("exchange")
    exchange = str(getattr(exchange, "name", exchange) or app.conf.task_default_exchange)
    key = route.get("routing_key") or app.conf.task_default_routing_key
    for name, queue in app.amqp.queues.items():
        if (queue.exchange and queue.exchange.name) == exchange and queue.routing_key == key:
            return str(name)
    return ""


def table_routes(
    router: Any, where: str, unknown: dict[str, None]
) -> Iterator[tuple[str, str, str]]:
    """Yield the routes of a table, those too whose tasks are not registered here."""
    tables = (getattr(router, "map", None), getattr(router, "patterns", None))
    if not any(isinstance(table, Mapping) for table in tables):
        unknown[CALLABLE + " " + where + " (" + callable_name(router) + ")"] = None
        return
    for table in tables:
        for key, route in (table or {}).items():
            queue = route.get("queue") if isinstance(route, Mapping) else route
            if queue:
                yield queue_name(queue), where, getattr(key, "pattern", key)


def callable_name(router: Any) -> str:
    """Return the name of a function or a class that routes."""
    try:
        from celery.utils.functional import maybe_evaluate

        router = maybe_evaluate(router)
    except Exception:  # a path that cannot be imported
        return type(router).__name__
    name = getattr(router, "__qualname__", type(router).__qualname__)
    return str(getattr(router, "__module__", "")) + "." + name


def queue_name(queue: Any) -> str:
    """Return the name of a queue that is a text or kombu's."""
    return str(getattr(queue, "name", queue))


class ApplicationProbe(Probe):
    """Imports the application as a worker does, and tells what it says."""

    @classmethod
    def main(cls, request: dict[str, Any], marker: str) -> None:
        """Take over the environment of the release, and answer."""
        # The image runs without a release: its variables come with the request, so that no command
        # line and no file on the server has them.
        os.environ.update(request.pop("environment", {}))
        super().main(request, marker)

    def mask(self, reply: dict[str, Any], secrets: Sequence[str]) -> Any:
        """Redact settings and the error: names are no secrets, and addresses are without a login.

        A queue may have the name that a variable with BROKER in its name holds.
        """
        masked = redact({"error": reply["error"], "conf": reply.get("conf", {})}, secrets)
        return {**reply, **masked}

    def run(self, app: Any) -> None:
        """Have it know what its worker knows, and ask."""
        app.loader.import_default_modules()
        app.finalize()
        self.reply.update(application_facts(app))

    def serve(self, answer: Any) -> None:
        """Import the application with the settings of its workers and answer."""
        self.run(load_app(self.request["app"], self.request.get("settings") or ()))
        answer()


main = ApplicationProbe.main
