"""A conversation with a program in a container that may be hostile: nothing in it has no end."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.probes import rollout
from ansible_collections.crisper.stack.plugins.module_utils.remote import session as sessions
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import MARKER, RemoteError
from ansible_collections.crisper.stack.plugins.module_utils.remote.session import Session

Start = Callable[[str], Session]


@pytest.fixture
def start() -> Iterator[Start]:
    """Begin a conversation with a script of the shell, which has Python's arguments."""
    begun: list[Session] = []

    def begin(script: str, program: Any = rollout) -> Session:
        begun.append(Session(["sh", "-c", script], program, {"app": "shop", "import_timeout": 9}))
        return begun[-1]

    yield begin
    for session in begun:
        session.process.kill()
        session.process.wait()


def seconds(ask: Callable[[], Any]) -> float:
    """Return for how long something goes on."""
    began = time.monotonic()
    ask()
    return time.monotonic() - began


def says(*pieces: str) -> str:
    """Return a script that reads all that it is sent, and prints some lines."""
    return "".join(f"echo {shlex.quote(piece)}; " for piece in pieces) + "exec cat >/dev/null"


@pytest.mark.parametrize("timeout", [0.0, 0.3])
def test_output_without_an_end_is_not_waited_for(start: Start, timeout: float) -> None:
    """Regression: while lines without an answer came, a rollout waited with the stack's lock."""
    session = start("cat >/dev/null & exec yes")
    session.send({"command": "answering"})
    time.sleep(0.2)
    assert seconds(lambda: session.poll(timeout)) < timeout + 2


def test_bytes_that_answer_nothing_are_counted(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST", 1 << 20)
    session = start("cat >/dev/null & exec yes")
    session.send({"command": "answering"})
    with pytest.raises(RemoteError, match="it printed more than 1048576 bytes without an answer"):
        session.receive(60)
    assert session.process.wait(10) != 0


def test_the_count_begins_with_each_question(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST", 3000)
    first, second = (f'{"x" * 2000}\n{MARKER}{{"number": {number}}}' for number in (1, 2))
    session = start(f"echo '{first}'; sleep 0.5; {says(second)}")
    for _ in range(2):
        session.send({})
        assert session.receive(20) == {}


@pytest.mark.parametrize("more", [0, 50])
def test_a_program_that_reads_nothing_is_not_waited_for(start: Start, more: int) -> None:
    """Regression: the program is more than a pipe takes, and was written for ever."""

    def ask() -> None:
        session = start("exec sleep 40")
        for _ in range(more):
            session.send({"nodes": ["x" * 10_000]})
        with pytest.raises(RemoteError, match="gave no answer within 0 s"):
            session.receive(0.2)

    assert seconds(ask) < 3


def test_a_slow_reader_gets_the_whole_program(start: Start) -> None:
    """It is sent while the rollout does something else."""
    reader = "import sys, time; time.sleep(0.3); sent = sys.stdin.buffer"
    reader += "; whole = sent.read(int(sent.readline()))"
    reader += f"; print({MARKER!r} + '{{\"bytes\": %d}}' % len(whole), flush=True); sent.read()"
    session = start(f"exec {shlex.quote(sys.executable)} -c {shlex.quote(reader)}")
    assert session.receive(20)["bytes"] > 100_000


def test_a_program_that_closes_its_output_and_goes_on_is_ended(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: its exit code was waited for without a limit."""
    monkeypatch.setattr(sessions, "PATIENCE", 0.2)
    session = start("exec >/dev/null 2>&1 sleep 40")

    def ask() -> None:
        with pytest.raises(RemoteError, match="it closed its output and went on"):
            session.receive(20)

    assert seconds(ask) < 5


def test_each_answer_belongs_to_its_question(start: Start) -> None:
    lines: Sequence[str] = ("noise", f'{MARKER}{{"number": 1, "is": "old"}}')
    session = start(says(*lines, f'{MARKER}{{"number": 2, "is": "new"}}'))
    session.send({})
    session.send({})
    assert session.receive(20) == {"is": "new"}


def test_the_end_of_a_program_is_told(start: Start) -> None:
    session = start("echo why >&2; exit 3")
    with pytest.raises(RemoteError, match="exit code 3: why"):
        session.receive(20)


def test_a_program_ends_when_nobody_talks_to_it_any_more() -> None:
    """Regression: the thread that writes its input kept that open until the module ended."""
    session = Session(["sh", "-c", "exec cat >/dev/null"], rollout, {"app": "shop"})
    process = session.process
    del session
    assert process.wait(5) == 0
