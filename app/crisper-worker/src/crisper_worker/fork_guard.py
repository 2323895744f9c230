"""Keeps a pool process from being forked while a thread of the worker is inside a C library.

A child has only the thread that forked, and every lock as it was: one that another thread holds at
that moment is never released in it. Python resets its own; glibc does not reset that of its
resolver. Measured (glibc 2.41, two threads that resolve a name): 3 of 300 children stood still for
ever in getaddrinfo, which in a worker is a task that runs until its time limit.
"""

from __future__ import annotations

import os
import threading
import time

# Seconds that a fork waits for a thread: more than a round takes while Redis answers.
PATIENCE = 5.0

_locks: list[threading.RLock] = []
_forking = threading.local()


def guard() -> threading.RLock:
    """Return a lock for one thread to hold while it talks to somebody: forks wait until then."""
    lock = threading.RLock()
    _locks.append(lock)
    return lock


def _before() -> None:
    deadline = time.monotonic() + PATIENCE
    _forking.taken = [
        lock for lock in _locks if lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    ]


def _in_parent() -> None:
    for lock in _forking.taken:
        lock.release()


def _in_child() -> None:
    _locks.clear()  # their threads are not there


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
