"""Reasons why parts of a stack's status are missing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..text import printable

# An image of an earlier edition without crisper-worker has no dead letters, and neither has an
# application without redis-py, whose broker is another one: that is no missing answer.
NO_PACKAGE = re.compile(r"No module named '?(crisper_worker|redis)'?(\)|$)")


def unanswered(results: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each part of the status that could not be read.

    Args:
        results: registered result of a task by part: ``workers``, ``waiting``, ``dead_letters``,
            ``stranded`` and ``certificate``. A part whose task was skipped is not missing.
    """
    answers = {part: result for part, result in results.items() if not result.get("skipped")}
    sentences = [
        _problem(answers.get("workers"), "The workers could not be asked"),
        _problem(answers.get("waiting"), "The queues could not be read"),
        _dead_letters(answers.get("dead_letters")),
        _problem(answers.get("stranded"), "Unacknowledged tasks could not be compared"),
        str(answers.get("certificate", {}).get("msg", "")),
    ]
    return [sentence for sentence in sentences if sentence]


def stranded_failure(stranded: Mapping[str, Any], rollout: Mapping[str, Any]) -> str:
    """Return why no stranded task was put back although there are some; empty otherwise.

    Args:
        stranded: registered result of M(celery_stranded).
        rollout: registered result of M(compose_rollout), which names the running workers.
    """
    if stranded.get("skipped"):
        return str(rollout.get("msg", "The workers that run could not be found"))
    if problem := _problem(stranded, "The unacknowledged tasks could not be checked"):
        return problem
    if stranded["blind"] and stranded["stranded"] > 0:
        return (
            f"Nothing was put back: {stranded['text']}. See the log of that worker; run this again"
            " when it answers."
        )
    return ""


def _problem(result: Mapping[str, Any] | None, sentence: str) -> str:
    """Return why a module has no answer. A module that crashed returns no ``problem`` at all."""
    if result is None or not result.get("problem", "crashed"):
        return ""
    return str(result.get("msg", sentence))


def _dead_letters(result: Mapping[str, Any] | None) -> str:
    """Return why the dead letters could not be listed."""
    if result is None or result.get("rc", 1) == 0:
        return ""
    lines = str(result.get("stderr") or result.get("msg") or "").strip().splitlines()
    words = printable(lines[-1]) if lines else "no answer"
    return "" if NO_PACKAGE.search(words) else f"Dead letters: {words.strip()}"
