"""Check an installation, as an operator would: ``python -m backend.verify``.

One line for each check, ``ok   name: what`` or ``FAIL name: what to do``; exit code 1 when any
failed. Ends LIMIT seconds after the imports, whatever is down. Errors are named by their type only:
their texts may quote an address with its password.
"""

from __future__ import annotations

import importlib
import queue
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

LIMIT = 10.0  # seconds for all checks that ask servers
IMPORT_LIMIT = 30.0  # seconds, on a slow machine the first time
ASK = 4.0  # seconds that workers have to answer
SECRET = 32  # characters; PyJWT warns of shorter ones
TASKS = {"tasks.health_check", "regenerate_embedding_task", "tasks.run_research"}
ROUTES = {
    ("get", "/health"),
    ("get", "/ready"),
    ("get", "/api/celery/health"),
    ("post", "/admin/login"),
    ("post", "/api/admin/bulk/regenerate-embeddings"),
    ("post", "/api/research"),
    ("post", "/api/research/async"),
    ("get", "/api/task/{task_id}"),
    ("delete", "/api/task/{task_id}"),
    ("get", "/api/task/{task_id}/events"),
}


class WrongError(Exception):
    """A check failed; the message says what to do."""


def configuration() -> str:
    """Settings that the application cannot do without."""
    from backend.settings import settings

    found = settings()
    if not found.secret_key:
        raise WrongError("set SECRET_KEY; without it login is off")
    if len(found.secret_key) < SECRET:
        raise WrongError(f"set a longer SECRET_KEY, {SECRET} characters or more")
    if not found.admin_password:
        raise WrongError("set ADMIN_PASSWORD; without it login is off")
    if (found.embedding_model or found.chat_model) and not (
        found.openai_base_url or found.openai_api_key
    ):
        raise WrongError("a model is set: set OPENAI_API_KEY or OPENAI_BASE_URL, too")
    return "secret key and admin password are set"


def code() -> str:
    """Everything that web and workers import."""
    for name in ("backend.main", "backend.tasks", "backend.tasks_research", "backend.research"):
        importlib.import_module(name)
    if importlib.import_module("backend.settings").settings().openai_base_url:
        importlib.import_module("backend.provider")
    return "web, tasks and research can be imported"


def registry() -> str:
    """The application's own tasks."""
    from backend.celery_app import app

    missing = TASKS - set(app.tasks)
    if missing:
        raise WrongError(f"not registered: {', '.join(sorted(missing))}; build the image anew")
    return ", ".join(sorted(TASKS))


def routes() -> str:
    """The paths that clients rely on."""
    from backend.main import app

    there = {(method, path) for path, how in app.openapi()["paths"].items() for method in how}
    missing = sorted(path for _, path in ROUTES - there)
    if missing:
        raise WrongError(f"missing: {', '.join(missing)}; build the image anew")
    return f"all {len(ROUTES)} are there"


def broker() -> str:
    """Celery's broker."""
    from backend.celery_app import app

    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
    return "answers"


def results() -> str:
    """Celery's result backend."""
    from backend.celery_app import app

    app.backend.client.ping()
    return "answers"


def database() -> str:
    """PostgreSQL, and whether the schema is the one of this release."""
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from backend.db import engine

    with engine().connect() as connection:
        there = MigrationContext.configure(connection).get_current_heads()
    ini = Path(__file__).parents[1] / "alembic.ini"
    wanted = ScriptDirectory.from_config(Config(str(ini))).get_heads()
    if set(there) != set(wanted):
        at, to = ", ".join(there) or "no revision", ", ".join(wanted)
        raise WrongError(f"it is at {at}, not at {to}; run: alembic upgrade head")
    return f"answers, at migration {', '.join(there)}"


def vector_database() -> str:
    """Qdrant."""
    from backend import vectors

    count = len(vectors.client().get_collections().collections)
    return f"answers, collections: {count}"


def workers() -> str:
    """What live workers know, and whether someone consumes every queue."""
    from backend.celery_app import app
    from backend.queue_depths import names

    with app.connection_for_read() as connection:
        connection.ensure_connection(max_retries=1, timeout=2)
        asked = app.control.inspect(timeout=ASK / 2, connection=connection)
        known = asked.registered() or {}
        consumed = asked.active_queues() or {}
    if not known:
        raise WrongError("none answers; start one, or look into its log")
    for worker, tasks in sorted(known.items()):
        missing = TASKS - {task.split(" ")[0] for task in tasks}
        if missing:
            told = ", ".join(sorted(missing))
            raise WrongError(f"{worker} does not know {told}; it runs another release: restart it")
    idle = set(names()) - {each["name"] for queues in consumed.values() for each in queues}
    if idle:
        raise WrongError(f"nobody consumes {', '.join(sorted(idle))}; start a worker for it")
    return f"{len(known)} answer, and consume every queue"


# Each with what to do when it ends in an error of its own. The others need the first two.
Check = tuple[Callable[[], str], str]
SETTINGS: dict[str, Check] = {
    "settings": (configuration, "a setting has a value of the wrong kind"),
}
IMPORTS: dict[str, Check] = {
    "imports": (code, "correct the settings, or build the image anew"),
}
OTHERS: dict[str, Check] = {
    "tasks": (registry, "the application is incomplete: build the image anew"),
    "routes": (routes, "the application is incomplete: build the image anew"),
    "broker": (broker, "start Redis, or correct CELERY_BROKER_URL"),
    "results": (results, "start Redis, or correct CELERY_RESULT_BACKEND"),
    "database": (database, "start PostgreSQL, or correct DATABASE_URL"),
    "qdrant": (vector_database, "start Qdrant, or correct QDRANT_URL and QDRANT_API_KEY"),
    "workers": (workers, "they cannot be asked without the broker"),
}


def run(check: Callable[[], str], advice: str) -> tuple[bool, str]:
    """Whether a check went well, and what to say of it."""
    try:
        return True, check()
    except WrongError as error:
        return False, str(error)
    except Exception as error:
        return False, f"{advice} ({type(error).__name__})"


def line(name: str, good: bool, said: str) -> str:
    """One line of the answer, plain ASCII."""
    text = f"{'ok  ' if good else 'FAIL'} {name}: {' '.join(said.split())}"
    return text.encode("ascii", "backslashreplace").decode()


def tell(checks: Mapping[str, Check], seconds: float) -> bool:
    """Run checks at once and print a line for each, in their order; whether all are well."""
    answers: queue.SimpleQueue[tuple[str, tuple[bool, str]]] = queue.SimpleQueue()
    for name, check in checks.items():
        # Daemons: one that still waits for a silent server does not keep this process.
        ask = partial(lambda name, check: answers.put((name, run(*check))), name, check)
        threading.Thread(target=ask, daemon=True).start()
    end = time.monotonic() + seconds
    told: dict[str, tuple[bool, str]] = {}
    with suppress(queue.Empty):
        while len(told) < len(checks):
            name, answer = answers.get(timeout=max(0.0, end - time.monotonic()))
            told[name] = answer
    for name, (_, advice) in checks.items():
        late = (False, f"{advice} (no answer within {seconds:.0f} s)")
        print(line(name, *told.get(name, late)), flush=True)
    return len(told) == len(checks) and all(good for good, _ in told.values())


def main() -> int:
    """All checks; the exit code."""
    good = tell(SETTINGS, LIMIT)
    if not tell(IMPORTS, IMPORT_LIMIT):
        return 1  # nothing else could be asked
    return 0 if tell(OTHERS, LIMIT) and good else 1


if __name__ == "__main__":
    sys.exit(main())
