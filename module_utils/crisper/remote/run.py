"""Run a probe inside a container, fed on standard input, and read its JSON reply.

Nothing is installed there: the sources become modules of ``python -``, at the places that they
have in this package, so that they import each other relatively, as everywhere. What a probe imports
relatively is sent with it. One line after a marker on standard output is the reply.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.util import resolve_name
from types import ModuleType
from typing import Any

from ..probes.serve import redact, secrets_of
from ..process import capture
from ..text import ERROR_WIDTH, clean, printable, printable_lines

MARKER = "CRISPER-SHIPPED-REPLY:"
# This package as it was imported here, and as it is called in a container: an application may
# have a package `crisper` of its own.
PACKAGE, THERE = __name__.rpartition(".remote.")[0], "_crisper"
# A relative import, wherever in a function: parsing whole files took 12 ms for the largest program.
RELATIVE_IMPORT = re.compile(r"^[ \t]*(from \.[.\w]* import (?:\([^)]*\)|[^\n]*))", re.MULTILINE)
# `exec`, not one concatenated file: every source keeps its __future__ line and its names.
LOADER = """\
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
def add(name, is_package):
    made = module_from_spec(ModuleSpec(name, None, is_package=is_package))
    sys.modules[name] = made
    parent, _, own = name.rpartition('.')
    if parent:
        setattr(sys.modules.get(parent) or add(parent, True), own, made)
    return made
sources = {sources!r}
for name, text in sources:
    exec(compile(text, name.replace('.', '/') + '.py', 'exec'), add(name, False).__dict__)
sys.modules[{entry!r}].main({request!r}, {marker!r})
"""


class RemoteError(RuntimeError):
    """Failure to get an answer; `problem` is the kind of trouble, as of celery_inspect."""

    def __init__(self, problem: str, message: str, stderr: str = "") -> None:
        super().__init__(message)
        self.problem = problem
        self.stderr = stderr


def name_there(module: ModuleType) -> str:
    """Return the name of a module in the container."""
    name = module.__name__
    return THERE + name[len(PACKAGE) :] if name.startswith(f"{PACKAGE}.") else name


def imported(module: ModuleType) -> Iterator[ModuleType]:
    """Yield the modules that a module imports relatively, wherever in its source."""
    package = module.__name__.rpartition(".")[0]
    for node in relative_imports(inspect.getsource(module)):
        name = resolve_name("." * node.level + (node.module or ""), package)
        found = importlib.import_module(name)
        # Of a package the names are modules, as packages have no code here.
        if hasattr(found, "__path__"):
            yield from (importlib.import_module(f"{name}.{alias.name}") for alias in node.names)
        else:
            yield found


def relative_imports(source: str) -> Iterator[ast.ImportFrom]:
    """Yield the statements that import relatively."""
    for statement in RELATIVE_IMPORT.findall(source):
        for node in ast.parse(statement).body:
            if isinstance(node, ast.ImportFrom):
                yield node


def closure(entry: ModuleType) -> list[ModuleType]:
    """Return a module and all that it needs, each after what it imports."""
    begun: set[str] = set()
    ordered: list[ModuleType] = []

    def visit(module: ModuleType) -> None:
        if module.__name__ not in begun:
            begun.add(module.__name__)
            for needed in imported(module):
                visit(needed)
            ordered.append(module)

    visit(entry)
    return ordered


@cache
def sources_of(entry: ModuleType) -> tuple[tuple[str, str], ...]:
    """Return the sources of a module and all that it needs, by their names in the container."""
    return tuple((name_there(module), inspect.getsource(module)) for module in closure(entry))


def program(entry: ModuleType, request: Mapping[str, Any]) -> str:
    """Return source that defines a module and what it needs, and calls its ``main``.

    ``main`` takes the request and the marker of the reply.
    """
    return LOADER.format(
        sources=sources_of(entry), entry=name_there(entry), request=dict(request), marker=MARKER
    )


def parse(stdout: str) -> dict[str, Any] | None:
    """Return the answer in what the process printed; None when there is none."""
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
    reply: dict[str, Any] = clean(answer)
    return reply


def without_secrets(stderr: str, environment: Mapping[str, str] | None = None) -> str:
    """Return the errors of a probe as they may be shown.

    A probe takes secrets out of what it answers; an application that ends it wrote this itself.

    Args:
        stderr: what the command wrote there.
        environment: variables that the probe was given.
    """
    return str(redact(stderr, secrets_of(environment or {})))


def trouble(code: int, stderr: str) -> tuple[str, str]:
    """Return the kind of trouble and its last line, when the command brought no answer."""
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
    entry: ModuleType,
    request: Mapping[str, Any],
    timeout: float,
    folder: str | None = None,
) -> dict[str, Any]:
    """Feed a probe to the command and return its reply.

    Args:
        command: runs Python, and hands standard input over.
        entry: the probe.
        request: what it is asked.
        timeout: seconds after which the command is ended.
        folder: where the command is run.

    Raises:
        RemoteError: when there is none. The program has an alarm of its own; `timeout` is for a
            Docker that does not answer.
    """
    line = " ".join(command)
    try:
        done = capture(command, program(entry, request), timeout, folder)
    except OSError as error:
        raise RemoteError("docker_unavailable", f"`{line}` does not start: {error}") from error
    except subprocess.TimeoutExpired as error:
        message = f"`{line}` gave no answer within {timeout:.0f} s and was ended"
        raise RemoteError("docker_unavailable", message) from error
    if done.cut:
        why = f"it printed more than {len(done.stdout)} bytes and was ended"
        raise RemoteError("malformed_reply", f"`{line}` gave no answer: {why}")
    answer = parse(done.stdout)
    if answer is None:
        errors = without_secrets(done.stderr, request.get("environment"))
        problem, why = trouble(done.returncode, errors)
        errors = printable_lines(errors[-2000:])
        raise RemoteError(problem, f"`{line}` gave no answer: {why}", errors)
    return answer


def ask(
    command: Sequence[str], entry: ModuleType, request: Mapping[str, Any], timeout: float
) -> dict[str, Any]:
    """Return what `run` does, or ``problem`` and ``error`` where there is no reply."""
    try:
        return {"problem": "", "error": "", **run(command, entry, request, timeout)}
    except RemoteError as error:
        return {"problem": error.problem, "error": str(error)}
