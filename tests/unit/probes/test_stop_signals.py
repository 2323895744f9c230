"""Programs in one-off containers of web end by the signal that web ends by."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.probes.serve import when_told_to_stop


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Leave the process as it was."""
    numbers = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)


@pytest.mark.parametrize(
    "name",
    ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGRTMIN"],
)
def test_any_stop_signal_is_heard(name: str) -> None:
    """Regression: with stop_signal SIGINT the ledger gave a traceback in place of its numbers."""
    calls: list[str] = []
    when_told_to_stop(lambda: calls.append(name))
    os.kill(os.getpid(), getattr(signal, name))
    assert calls == [name]
