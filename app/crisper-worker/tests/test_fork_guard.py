"""A pool process is not forked while a thread of the worker holds what it would need."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest
from crisper_worker import fork_guard
from crisper_worker.lease_keeper import LeaseKeeper
from crisper_worker.watchdog import Beats, Watchdog

FORKS = 20


class Resolver:
    """As glibc's: a lock that no fork resets."""

    def __init__(self) -> None:
        self.lock = threading.Semaphore()
        self.rounds = 0

    def ask(self) -> bool:
        with self.lock:
            self.rounds += 1
            time.sleep(0.01)
        return True

    def renew(self, _tags: list[str]) -> tuple[float, set[str]]:
        self.ask()
        return 0.0, set()

    def expired(self, _before: float, _start: int = 0) -> list[str]:
        self.ask()
        return []


def keeper(resolver: Resolver) -> None:
    LeaseKeeper(0.01, lambda *_: None).start(resolver)  # type: ignore[arg-type]


def watchdog(resolver: Resolver) -> None:
    beats = Beats(good=1)
    Watchdog(beats, 1000, 0.001, resolver.ask, lambda: None, lambda: None).start()


@pytest.mark.parametrize("start", [keeper, watchdog])
def test_children_find_no_lock_that_a_thread_of_the_worker_held(
    start: Callable[[Resolver], None],
) -> None:
    resolver = Resolver()
    start(resolver)
    stuck = 0
    for _ in range(FORKS):
        rounds = resolver.rounds
        while resolver.rounds == rounds:  # forks in the middle of a round
            time.sleep(0.001)
        child = os.fork()
        if child == 0:
            os._exit(0 if resolver.lock.acquire(timeout=1) else 1)
        stuck += os.waitpid(child, 0)[1] != 0
    assert stuck == 0


def test_a_thread_that_hears_nothing_holds_a_fork_up_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fork_guard, "PATIENCE", 0.2)
    locks: list[threading.RLock] = []
    monkeypatch.setattr(fork_guard, "_locks", locks)
    lock, held, done = fork_guard.guard(), threading.Event(), threading.Event()

    def hang() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    done.set()
    thread.join()
    assert lock.acquire(timeout=1)  # the fork left nothing of its own held
