"""The whole application on real servers: PostgreSQL, Redis, Qdrant's stand-in, web and worker."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from appstack import PASSWORD, QDRANT_KEY, Stack, Web
from testkit import APP, Process, Redis, free_port, is_open, wait_until

QDRANT_SERVER = APP.parent / "images/qdrant/server"


def postgres_binary(name: str) -> str:
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    if not found:
        pytest.fail("PostgreSQL's server is missing: apt-get install postgresql")
    return str(found[-1])


def unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return []
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server; its folder lies where its user may look into every parent."""
    port = free_port()
    folder = Path(f"/tmp/crisper-app-postgres-{port}")
    folder.mkdir(mode=0o700)
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    quiet = {"stdout": subprocess.DEVNULL, "check": True, "cwd": "/"}
    options = ["-D", str(folder / "data"), "-U", "crisper", "--auth=trust", "--no-sync"]
    subprocess.run([*unprivileged(), postgres_binary("initdb"), *options], **quiet)
    settings = {"port": port, "unix_socket_directories": folder, "fsync": "off"}
    server = subprocess.Popen(
        [
            *unprivileged(),
            postgres_binary("postgres"),
            "-D",
            str(folder / "data"),
            *(f"--{name}={value}" for name, value in settings.items()),
        ],
        stderr=(folder.parent / f"{folder.name}.log").open("wb"),
        cwd="/",
    )
    wait_until(lambda: is_open(port), "PostgreSQL listens")
    yield f"postgresql+psycopg://crisper@127.0.0.1:{port}/postgres"
    server.send_signal(signal.SIGINT)
    server.wait(20)
    shutil.rmtree(folder)
    Path(f"{folder}.log").unlink()


@pytest.fixture(scope="session")
def qdrant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the Qdrant stand-in that machines without a registry run, on Qdrant's own engine."""
    port, folder = free_port(), tmp_path_factory.mktemp("qdrant")
    server = Process(
        [sys.executable, "-m", "qdrant_standin"],
        {
            "PYTHONPATH": str(QDRANT_SERVER),
            "QDRANT__SERVICE__API_KEY": QDRANT_KEY,
            "QDRANT__SERVICE__HOST": "127.0.0.1",
            "QDRANT__SERVICE__HTTP_PORT": str(port),
            "QDRANT__STORAGE__STORAGE_PATH": str(folder / "storage"),
        },
        folder / "log",
    )
    server.start()
    wait_until(lambda: is_open(port), "Qdrant listens", log=server.log)
    yield f"http://127.0.0.1:{port}"
    server.kill()


@pytest.fixture(autouse=True)
def nothing_of_killed_workers(request: pytest.FixtureRequest) -> None:
    """What the workers that earlier tests killed held would run in this one."""
    if "stack" in request.fixturenames:
        client = request.getfixturevalue("stack").redis.client(0)
        if held := client.keys("unacked*"):
            client.delete(*held)


@pytest.fixture(scope="session")
def stack(
    postgres: str, redis_server: Redis, qdrant: str, tmp_path_factory: pytest.TempPathFactory
) -> Stack:
    """Everything but web and workers, migrated by the command of the deploy."""
    environment = {
        "DATABASE_URL": postgres,
        "CELERY_BROKER_URL": redis_server.url(0),
        "CELERY_RESULT_BACKEND": redis_server.url(2),
        "REDIS_URL": redis_server.url(1),
        "QDRANT_URL": qdrant,
        "QDRANT_API_KEY": QDRANT_KEY,
        "SECRET_KEY": "s" * 40,
        "ADMIN_USERNAME": "admin",
        "ADMIN_PASSWORD": PASSWORD,
        "RELEASE": "20261120t000000z-0badcafe",
        "CELERY_WORKER_QUEUES": "default,embeddings,research",
        "API_DOCS": "true",
        # All tests are one client; test_limits.py sets limits of its own.
        "RESEARCH_PER_MINUTE": "0",
        "RESEARCH_UNFINISHED": "0",
        "RAG_PER_MINUTE": "0",
        "CHAT_PER_MINUTE": "0",
        "ITINERARY_PER_MINUTE": "0",
        "EVENTS_PER_CLIENT": "0",
    }
    made = Stack(environment, tmp_path_factory.mktemp("stack"), redis_server)
    first = made.migration()
    second = made.migration()  # two hosts at once: one waits for the other
    first.start()
    second.start()
    for process in (first, second):
        assert process.wait(60) == 0, process.log.read_text()
    return made


@pytest.fixture(scope="session")
def web(stack: Stack) -> Iterator[Web]:
    process = stack.web()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def worker(stack: Stack) -> Iterator[Process]:
    process = stack.worker()
    yield process
    process.kill()


@pytest.fixture(scope="session")
def guest(web: Web) -> Iterator[httpx.Client]:
    """Not logged in."""
    with web.client() as client:
        yield client


@pytest.fixture(scope="session")
def admin(web: Web) -> Iterator[httpx.Client]:
    """Logged in."""
    with web.client() as client:
        answer = client.post("/admin/login", json={"username": "admin", "password": PASSWORD})
        assert answer.status_code == 200, answer.text
        client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        yield client


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of one test's own, that may go away."""
    server = Redis(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def make_items(admin: httpx.Client) -> Callable[..., list[int]]:
    def make(*titles: str) -> list[int]:
        items = [{"title": title, "content": f"What is known of {title}."} for title in titles]
        answer = admin.post("/api/admin/items", json=items)
        assert answer.status_code == 201, answer.text
        return [item["id"] for item in answer.json()]

    return make


@pytest.fixture
def finish(admin: httpx.Client) -> Callable[..., dict]:
    """Wait for the end of a task, as who started it."""

    def wait(task_id: str, seconds: float = 30, who: httpx.Client = admin) -> dict:
        def ended() -> dict | None:
            task = who.get(f"/api/task/{task_id}").json()
            return task if task["status"] not in ("pending", "progress") else None

        return wait_until(ended, f"task {task_id} ends", seconds)

    return wait
