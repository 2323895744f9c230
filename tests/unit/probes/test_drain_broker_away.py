"""A broker that stands still is nobody's silence: the drain's loop on a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.drain import Drain
from ansible_collections.crisper.stack.plugins.module_utils.probes import drain as drain_probe

PollClient = drain_probe.PollClient
NODE = "old@a"


class World:
    """A Redis that stands still for a while, and a worker that answers through it."""

    def __init__(self, still, busy_until, answers=True):
        self.now = 0.0
        self.still = still  # (from, until)
        self.busy_until = busy_until  # the worker runs a task
        self.answers = answers
        self.slow = (-1.0, -1.0)  # when the worker answers nothing; later it answers all
        self.asked = []  # (method, what takes the reply)

    def monotonic(self):
        return self.now

    time = monotonic

    def sleep(self, seconds):
        self.now += seconds

    def command(self, *_args, **_options):
        """Return when Redis has answered: it raises nothing."""
        if self.still[0] <= self.now < self.still[1]:
            self.now = self.still[1]
        self.now += 0.001

    def drain_events(self, timeout):
        """Deliver a reply, or pass the time."""
        thawed = not self.still[0] <= self.now < self.still[1]
        if self.answers and thawed and self.asked and not self.slow[0] <= self.now < self.slow[1]:
            self.now += 0.03
            method, reply = self.asked.pop()
            queues = [] if self.now > 0.1 else [{"name": "one"}]
            running = [{"id": "1", "name": "nap", "time_start": 0.0}]
            busy = running if method == "active" and self.now < self.busy_until else []
            value = queues if method == "active_queues" else busy
            reply({NODE: value})
            return
        until = self.now + timeout
        if self.now < self.still[1] < until:
            until = self.still[1]
            self.now = until
            return
        self.now = until
        raise TimeoutError

    def open(self, _app, timeout):
        """Return a client in this world."""
        client = object.__new__(PollClient)
        client.timeout, client.parts, client.reports, client.messages = timeout, {}, [], 0
        client.broker_away = False
        client.connection = self
        client.client = SimpleNamespace(ping=self.command)
        client.send = self.send
        client.close = lambda: None
        return client

    def send(self, method, _arguments, _nodes, on_reply=None):
        self.command()
        if on_reply:
            self.asked.append((method, on_reply))


@pytest.fixture
def drain(monkeypatch):
    monkeypatch.setattr(drain_probe, "count_held", lambda _connection: 0)

    def run(world, timeout=60.0, **options):
        monkeypatch.setattr(drain_probe, "time", world)
        monkeypatch.setattr(drain_probe, "PollClient", lambda app, t: world.open(app, t))
        request = {"command": "drain", "look_only": False, "timeout": timeout, "interval": 1.0}
        request |= {"reply_timeout": 1.0, **options}
        book = Drain([NODE], silent_after=5.0, now=world.now)
        app = SimpleNamespace(connection=lambda: SimpleNamespace(connection_errors=()))
        drain_probe.converge(app, request, book)
        return book.summary(world.now)

    return run


@pytest.mark.parametrize("seconds", [3.0, 4.9, 8.0, 20.0])
@pytest.mark.parametrize("begin", [0.5, 1.5, 2.03, 2.9])
@pytest.mark.parametrize("patience", [1.0, 10.0])
def test_a_broker_that_stands_still_makes_nobody_silent(drain, seconds, begin, patience):
    """Regression: the freeze raises no error; the worker's silence was counted through it."""
    world = World((begin, begin + seconds), busy_until=begin + seconds + 2)
    result = drain(world, reply_timeout=patience)
    assert (result["done"], result["silent"]) == ([NODE], [])


def test_a_worker_that_misses_one_poll_is_heard_again(drain):
    """Regression: the only worker's answers were never read again, and it counted as silent."""
    world = World((-1.0, -1.0), busy_until=4.0)
    world.slow = (0.5, 2.5)
    result = drain(world)
    assert (result["done"], result["silent"]) == ([NODE], [])


@pytest.mark.parametrize("still", [(-1.0, -1.0), (1.0, 9.0)])
def test_a_silent_worker_is_still_told(drain, still):
    """The broker's absence is excused once, and not for ever."""
    world = World(still, busy_until=0.0, answers=False)
    result = drain(world)
    assert (result["done"], result["silent"]) == ([], [NODE])
    assert world.now < still[1] + 10


def test_a_worker_that_falls_silent_behind_a_quick_broker_is_told(drain):
    world = World((-1.0, -1.0), busy_until=100.0)
    original, world.answers = world.drain_events, True

    def dying(timeout):
        world.answers = world.now < 3.0
        return original(timeout)

    world.drain_events = dying
    result = drain(world)
    assert result["silent"] == [NODE]
    assert 7.0 < world.now < 12.0


def test_a_look_behind_a_lost_connection_has_an_answer(drain):
    """Regression: the look that followed was one without a broker, although it answered."""
    world = World((-1.0, -1.0), busy_until=0.0)
    original, failures = world.send, [OSError("reset")]

    def send(*arguments, **options):
        if failures:
            raise failures.pop()
        original(*arguments, **options)

    world.send = send
    result = drain(world, look_only=True)
    assert result["silent"] == []
    assert NODE in result["nodes"]
