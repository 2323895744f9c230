"""A compromised worker's way into Redis: the stack's own redis.conf on a real Redis."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
import stack_redis  # noqa: E402
from celery_lab import free_port  # noqa: E402
from stack_redis import ADDABLE, app_password  # noqa: E402

PASSWORD = 'op"era\\tor s'
Connect = Callable[..., redis.Redis]
ATTACKS = (
    # A file of the attacker's choice: the classic way to a shell.
    *("CONFIG SET dir /tmp", "CONFIG SET dbfilename x.so", "CONFIG GET requirepass"),
    *("CONFIG REWRITE", "CONFIG SET requirepass mine", "MODULE LOAD /data/x.so", "MODULE LIST"),
    *("SAVE", "BGSAVE", "BGREWRITEAOF", "LASTSAVE"),
    # Everything that waits, gone.
    *("FLUSHALL", "FLUSHALL ASYNC", "FLUSHDB", "SWAPDB 0 1"),
    # Everything that waits, elsewhere; or the attacker's data in its place.
    *("REPLICAOF 10.0.0.1 6379", "SLAVEOF 10.0.0.1 6379", "PSYNC ? -1", "SYNC"),
    *("MIGRATE 10.0.0.1 6379 key 0 100", "FAILOVER", "RESTORE key 0 x", "REPLCONF capa eof"),
    # The server, its users and its other clients.
    *("SHUTDOWN NOSAVE", "DEBUG SEGFAULT", "DEBUG SLEEP 10", "CLIENT PAUSE 100000"),
    *("CLIENT KILL TYPE normal", "CLIENT LIST", "MONITOR", "SLOWLOG GET", "LATENCY RESET"),
    *("ACL SETUSER app +@all", "ACL LIST", "ACL GETUSER default", "ACL DELUSER default"),
    *("CLUSTER RESET", "CLUSTER FORGET x", "CLUSTER ADDSLOTS 1"),
    # One command that keeps Redis busy for as long as there are keys.
    *("KEYS *", "SORT list", "SORT_RO list"),
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connect]:
    """A Redis with the stack's configuration; connects as a user of it."""
    folder = tmp_path_factory.mktemp("redis")
    port = free_port()
    configuration = folder / "redis.conf"
    configuration.write_text(stack_redis.configuration(PASSWORD, port, folder, disk=True))
    log = (folder / "log").open("wb")
    running = subprocess.Popen(["redis-server", str(configuration)], stdout=log, stderr=log)

    def connect(user: str | None = "app", password: str | None = None) -> redis.Redis:
        own = app_password(PASSWORD, stack_redis.STACK)
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=port, username=user, password=password or own, retry=once)

    deadline = 200
    while True:
        try:
            connect().ping()
            break
        except redis.ConnectionError:
            deadline -= 1
            assert deadline, (folder / "log").read_text()
            assert running.poll() is None, (folder / "log").read_text()
            subprocess.run(["sleep", "0.05"], check=True)
    yield connect
    running.kill()
    running.wait()
    log.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_an_application_never_needs_is_refused(server: Connect, attack: str) -> None:
    # Redis 7 has DEBUG and MODULE LOAD off for everybody, and says so first.
    refused = r"no permissions|command not allowed"
    with server() as client, pytest.raises(redis.ResponseError, match=refused):
        client.execute_command(*attack.split())


def test_a_script_may_do_no_more_than_its_user(server: Connect) -> None:
    with server() as client, pytest.raises(redis.ResponseError, match="user executing the script"):
        client.eval("return redis.call('FLUSHALL')", 0)


def test_the_applications_password_is_not_the_operators(server: Connect) -> None:
    own = app_password(PASSWORD, stack_redis.STACK)
    for user, password in (("default", own), (None, own), ("app", PASSWORD), ("nobody", own)):
        with server(user, password) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


@pytest.mark.parametrize("user", ["default", None])
def test_the_deploy_and_releases_of_older_editions_may_do_everything(
    server: Connect, user: str | None
) -> None:
    """`redis://:password@` of an older release is the user default."""
    with server(user, PASSWORD) as client:
        assert client.config_get("dir")
        assert client.acl_list()
        assert client.lastsave()


def test_what_applications_do_is_allowed(server: Connect) -> None:
    with server() as client:
        client.set("key", "value", ex=60)
        with client.pipeline() as pipe:
            pipe.watch("key")
            pipe.multi()
            pipe.incr("count")
            pipe.expire("count", 60)
            assert pipe.execute() == [1, True]
        assert client.rpush("list", "a", "b") == 2
        assert client.execute_command("LPOS", "list", "b", "RANK", -1, "MAXLEN", 10) == 1
        assert list(client.scan_iter("ke*")) == [b"key"]
        assert client.eval("return redis.call('TIME')", 0)
        assert client.register_script("return ARGV[1]")(args=["x"]) == b"x"
        assert client.xadd("stream", {"a": "b"})
        assert client.info("memory")["maxmemory"] > 0
        assert client.client_setname("worker")
        with client.pubsub() as listener:
            listener.psubscribe("*")
            assert listener.get_message(timeout=5)["type"] == "psubscribe"
            client.publish("channel", "hello")
            assert listener.get_message(timeout=5)["data"] == b"hello"
        client.delete("key", "count", "list", "stream")


def test_commands_that_an_operator_adds(tmp_path: Path) -> None:
    """Django's cache.clear() is a FLUSHDB."""
    port = free_port()
    configuration = tmp_path / "redis.conf"
    configuration.write_text(stack_redis.configuration(PASSWORD, port, tmp_path, commands=ADDABLE))
    running = subprocess.Popen(["redis-server", str(configuration)], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(
            port=port, username="app", password=app_password(PASSWORD, stack_redis.STACK)
        )
        for _ in range(200):
            assert running.poll() is None, "Redis does not know one of ADDABLE"
            try:
                client.ping()
                break
            except redis.ConnectionError:
                subprocess.run(["sleep", "0.05"], check=True)
        assert client.flushdb()
        assert client.keys() == []
        assert client.role()
        with pytest.raises(NoPermissionError):
            client.flushall()
        client.close()
    finally:
        running.kill()
        running.wait()
