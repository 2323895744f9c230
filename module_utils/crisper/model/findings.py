"""Findings about variables as one list, without those that only follow from others.

Pure functions over sentences that begin with the place they are about.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from .option_types import Finding

SUBJECT = re.compile(r"[A-Za-z_]\w*(?:\.[\w-]+|\[[0-9]+\])*")


def subject(sentence: str) -> str:
    """Return the place that a finding is about: ``celery_workers[0].queues``."""
    found = SUBJECT.match(sentence)
    return found[0] if found else ""


def is_within(place: str, outer: str) -> bool:
    """Return whether a place is another one, or lies in it."""
    return place == outer or place.startswith((f"{outer}.", f"{outer}["))


def mentions(sentence: str, place: str) -> bool:
    """Return whether a sentence names a place anywhere."""
    return re.search(rf"(?<![\w.]){re.escape(place)}(?!\w)", sentence) is not None


def merge_findings(
    unresolved: Sequence[Finding], types: Sequence[Finding], judged: Iterable[str]
) -> list[Finding]:
    """Return all findings but those that follow from another one.

    Of a single value with two findings the one of `judged` stays: it knows what the value is for.

    Args:
        unresolved: places that could not be resolved; something else stood there for `judged`.
            Those without a text follow from others of them.
        types: findings of types.
        judged: sentences of those who judge values.
    """
    unknown = [finding.place for finding in unresolved]
    found = [f for f in types if not _concerns_any(f.place, unknown)]
    whole = [finding.place for finding in found if finding.whole]
    remaining = [
        Finding(subject(sentence), sentence)
        for sentence in judged
        if not _concerns_any(subject(sentence), unknown)
        and not any(mentions(sentence, place) for place in unknown)
        and not any(is_within(subject(sentence), place) for place in whole)
    ]
    known = {finding.place for finding in remaining}
    sentences = [finding for finding in unresolved if finding.text]
    return [*sentences, *(f for f in found if f.whole or f.place not in known), *remaining]


def _concerns_any(place: str, others: Collection[str]) -> bool:
    return any(is_within(place, other) or is_within(other, place) for other in others)


def refusal(findings: Sequence[str]) -> str:
    """Return the message of a run that these findings end."""
    lines = [f"{number}. {text}" for number, text in enumerate(findings, start=1)]
    head = f"{len(findings)} finding(s) in the stack's variables; nothing on a server was changed."
    remedy = "Set them in group_vars of the inventory; what -e sets, on the command line."
    return "\n".join([head, *lines, remedy])
