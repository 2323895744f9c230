"""Describe the output of a failed command or module in one readable message.

Pure functions. Every failure that quotes the output of somebody else's program (a migration, a
build, a pull, a data service) is described here, so that all of them name the cause, the exit code
or the time limit, and the last lines of the real output, once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .text import composed, printable, printable_line, quote_output, quoted_lines

LINES = 20
LARGEST = 1_000_000  # characters of the end of an output that are looked at
WIDTH = 500  # characters of one line: a minified file in an error is not worth a screen
# Control sequences of terminals: colours (CSI), and titles and the like (OSC).
ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?")
# A password in an address: programs quote their DATABASE_URL when it fails.
CREDENTIALS = re.compile(r"(?<=://)([^\s:/@]*):[^\s@/]+@")
# What Compose prints while it works, such as ` Container crisper-redis-1  Waiting`.
PROGRESS = re.compile(r"^\s*(Container|Network|Volume|Image)\s+\S+\s+\w+( [\d.]+m?s)?\s*$")
TIMEOUT = 124  # of timeout(1), when it ended the command by SIGTERM
KILLED = 137  # 128 + SIGKILL: of timeout(1) with --kill-after, or of the kernel
# Messages of Ansible that say no more than "it failed".
EMPTY_MESSAGES = frozenset({"", "non-zero return code", "Unknown error"})


def last_lines(text: str, count: int = LINES) -> str:
    """Return the last `count` lines of `text` that hold anything, fit for a terminal and a log.

    Without control sequences; other characters that are not printable are written out, and
    passwords in addresses (``scheme://user:password@host``) are masked.
    """
    lines = [ANSI.sub("", line).rstrip() for line in text[-LARGEST:].split("\n")]
    lines = [CREDENTIALS.sub(r"\1:***@", line) for line in lines if line][-count:]
    # Progress bars return the carriage: what they show last counts.
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in lines]
    return "\n".join(printable_line(line, WIDTH) for line in lines)


def quote_last_lines(text: str, count: int = LINES) -> str:
    """Return the last lines of somebody else's output as a part of a message.

    One is quoted, several are marked, each on a line of its own: none passes for one of ours.
    """
    return quote_output(last_lines(text, count))


def mark_last_lines(text: str, count: int = LINES) -> str:
    """Return the last lines of somebody else's output, each marked, for a place below ours."""
    return quoted_lines(last_lines(text, count))


def is_failure(result: Mapping[str, Any]) -> bool:
    """Return whether a task's registered result is a failure, also under ``failed_when: false``."""
    if result.get("skipped"):
        return False
    if isinstance(result.get("results"), list):
        return any(is_failure(item) for item in result["results"])
    if result.get("failed") or "failed_when_suppressed_exception" in result:
        return True
    return result.get("rc") not in (None, 0, "0")


def describe_failure(
    result: Mapping[str, Any], action: str, timeout: float = 0, remedy: str = ""
) -> str:
    """Return one message for a failed task; an empty text when the task did not fail.

    Args:
        result: what the task registered (of a loop: the whole, with ``results``).
        action: what was done, as the subject of a sentence: ``The migration (alembic upgrade
            head)``.
        timeout: seconds that `timeout(1)` gave the command; 0 without a limit.
        remedy: what to do, as a sentence of its own.

    Returns:
        ``<action> failed with exit code 255. <remedy>`` and the last lines of its output.
    """
    if not is_failure(result):
        return ""
    if isinstance(result.get("results"), list):
        items = [item for item in result["results"] if is_failure(item)]
        parts = [describe_failure(item, f"{action}{_label(item)}", timeout) for item in items]
        return "\n".join([*parts, remedy] if remedy else parts)
    head = f"{action} {_reason(result, timeout)}."
    output = _output(result)
    # Marked, so that no line of it passes for one of ours.
    body = f"\nLast lines of its output:\n{quoted_lines(output)}" if output else ""
    return f"{head}{f' {remedy}' if remedy else ''}{body}"


def describe_task(result: Mapping[str, Any], name: str) -> str:
    """Return one message for the task that ended a play, as a rescue has it.

    The message of a task is kept whole when it says more than "it failed"; otherwise the task is
    described by what its command printed.

    Args:
        result: ``ansible_failed_result``.
        name: ``ansible_failed_task.name``.
    """
    message = str(result.get("msg") or "").strip()
    if isinstance(result.get("results"), list) or message in EMPTY_MESSAGES:
        message_of_command = describe_failure({**result, "failed": True}, f"The task '{name}'")
        return message_of_command or f"The task '{name}' failed and did not say why."
    return f"{name}: {composed(message)}"


def first_line(text: str, width: int = WIDTH) -> str:
    """Return the first line of a message, for a record that has room for one."""
    line = printable((text.strip().splitlines() or [""])[0], max(width, len(text)))
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _label(item: Mapping[str, Any]) -> str:
    label = item.get("_ansible_item_label")
    if label is None and isinstance(item.get("ansible_loop_var"), str):
        label = item.get(item["ansible_loop_var"])
    return f" ({label})" if isinstance(label, (str, int)) else ""


def _reason(result: Mapping[str, Any], timeout: float) -> str:
    code = result.get("rc")
    message = str(result.get("msg") or "").strip()
    if timeout and code in (TIMEOUT, KILLED):
        return f"did not end within its time limit of {timeout:g} s and was stopped"
    if code == KILLED:
        return "was killed (exit code 137): by the memory limit of its container, or by hand"
    words = "failed" if code in (None, 0, "0") else f"failed with exit code {code}"
    if message in EMPTY_MESSAGES or (code not in (None, 0, "0") and message in _output(result)):
        return words
    return f"{words}: {quote_last_lines(message.rstrip('.'), 5)}"


def _output(result: Mapping[str, Any]) -> str:
    """Return errors and output of the command: programs print what matters to either."""
    streams: Sequence[str] = [str(result.get(name) or "").strip() for name in ("stdout", "stderr")]
    messages = [
        "\n".join(line for line in stream.split("\n") if not PROGRESS.match(line))
        for stream in streams
    ]
    # Where one of them alone would fill the message, each has its half.
    lengths = [len(last_lines(stream).splitlines()) for stream in messages]
    half = LINES // 2
    shares = [max(half, LINES - length) for length in reversed(lengths)]
    excerpts = [last_lines(stream, share) for stream, share in zip(messages, shares, strict=True)]
    return "\n".join(stream for stream in excerpts if stream)
