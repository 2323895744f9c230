"""Runs Python sources inside a container, fed on standard input, and reads their JSON answer.

Nothing is installed there: the sources become modules of ``python -``, importable by their own
names, and one line after a marker on standard output is the answer.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

from ansible.module_utils import crisper_leftovers_probe, crisper_text
from ansible.module_utils.crisper_capture import capture
from ansible.module_utils.crisper_text import clean, printable, printable_lines

MARKER = "CRISPER-SHIPPED-REPLY:"
# What every program may import.
ALWAYS = (crisper_text, crisper_leftovers_probe)
# Characters of why nothing could be asked: an exception with the file and line that raised it.
ERROR_WIDTH = 500
# `exec`, not one concatenated file: every source keeps its __future__ line and its names.
LOADER = """\
import sys, types
sources = {sources!r}
for name, text in sources:
    sys.modules[name] = module = types.ModuleType(name)
    exec(compile(text, name + '.py', 'exec'), module.__dict__)
sys.modules[{entry!r}].main({request!r}, {marker!r})
"""


class ShipError(RuntimeError):
    """No answer came back; `problem` is the kind of trouble, as of celery_inspect."""

    def __init__(self, problem: str, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.stderr = stderr


def program(modules: Iterable[ModuleType], request: Mapping[str, Any]) -> str:
    """Source that defines the modules and calls ``main(request, marker)`` of the last."""
    shipped = (*ALWAYS, *modules)
    named = [(m.__name__.rpartition(".")[2], inspect.getsource(m)) for m in shipped]
    return LOADER.format(sources=named, entry=named[-1][0], request=dict(request), marker=MARKER)


def parse(stdout: str) -> dict[str, Any] | None:
    """The answer in what the process printed; None when there is none."""
    # Not `splitlines`, which also splits at characters that JSON has in its texts.
    for line in reversed(stdout.split("\n")):
        if line.startswith(MARKER):
            return parse_line(line)
    return None


def parse_line(line: str) -> dict[str, Any] | None:
    """Return the answer in a line that begins with the marker; None when it is none.

    Its texts are printable and its size is bounded, whoever has printed it.
    """
    try:
        answer = json.loads(line[len(MARKER) :])
    except (ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    error = printable(answer.get("error") or "", ERROR_WIDTH)
    return {**clean(answer), **({"error": error} if "error" in answer else {})}


def trouble(code: int, stderr: str) -> tuple[str, str]:
    """Kind of trouble and its last line, when the command brought no answer."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = printable(lines[-1], ERROR_WIDTH) if lines else "it said nothing"
    if re.search(r"Cannot connect to the Docker daemon|permission denied.*docker", stderr, re.I):
        return "docker_unavailable", last
    if re.search(
        r"is not running|is paused|is restarting|no such (container|service)", stderr, re.I
    ):
        return "container_not_running", last
    if code in (126, 127) or "executable file not found" in stderr:
        return "app_not_importable", f"Python does not start in the container: {last}"
    if code in (137, 143):
        return "malformed_reply", f"killed (exit code {code}; out of memory?): {last}"
    return "malformed_reply", f"exit code {code}: {last}"


def run(
    command: Sequence[str],
    modules: Iterable[ModuleType],
    request: Mapping[str, Any],
    timeout: float,
    folder: str | None = None,
) -> dict[str, Any]:
    """Feed the program to the command and return its answer.

    Raises:
        ShipError: when there is none. The program has an alarm of its own; `timeout` is for a
            Docker that does not answer.
    """
    shown = " ".join(command)
    try:
        done = capture(command, program(modules, request), timeout, folder)
    except OSError as error:
        raise ShipError("docker_unavailable", f"`{shown}` does not start: {error}") from error
    except subprocess.TimeoutExpired as error:
        message = f"`{shown}` gave no answer within {timeout:.0f} s and was ended"
        raise ShipError("docker_unavailable", message) from error
    if done.cut:
        why = f"it printed more than {len(done.stdout)} bytes and was ended"
        raise ShipError("malformed_reply", f"`{shown}` gave no answer: {why}")
    answer = parse(done.stdout)
    if answer is None:
        problem, why = trouble(done.returncode, done.stderr)
        said = printable_lines(done.stderr[-2000:])
        raise ShipError(problem, f"`{shown}` gave no answer: {why}", said)
    return answer
