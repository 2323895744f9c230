"""Images by digest: what ``image_digests`` says, what is pulled by it, and what is by tag only.

A reference names an image by its tag, which a registry may move. ``image_digests`` holds, by
reference, the digest of the one image that is meant; ``playbooks/digests.yml`` writes it. The image
is pulled by that digest and then tagged with the reference: the engine, the compose file and
archives know it by its tag, whether it has a digest or not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ..output import last_lines
from .registry import PLATFORM, is_pinned, repository

DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def without_digest(reference: str) -> str:
    """Return the part of a reference by which an engine can name what it built: the tag's."""
    return reference.partition("@")[0]


def digest_of(reference: str, digests: Mapping[str, str]) -> str:
    """Return the digest that a reference is pinned to, by itself or in `digests`; '' for none."""
    own = reference.partition("@")[2]
    return own or str(digests.get(reference) or "")


def is_built_here(reference: str, labels: Mapping[str, str]) -> bool:
    """Return whether an image is the local build that stands for the reference."""
    return labels.get(PLATFORM) == repository(reference).rpartition("/")[2]


def find_digest_problems(digests: Any) -> Iterator[str]:
    """Yield what is wrong with ``image_digests``, one sentence each."""
    remedy = "let playbooks/digests.yml write it, or remove it."
    if not isinstance(digests, Mapping):
        yield f"image_digests is no mapping of references to digests: {remedy}"
        return
    for reference, digest in digests.items():
        if not isinstance(reference, str) or "@" in reference:
            yield f"image_digests has the key {reference!r}: keys are references without a digest."
        elif not isinstance(digest, str) or not DIGEST.match(digest):
            yield (
                f"image_digests['{reference}'] is {str(digest)[:100]!r}, no digest (sha256: and 64"
                f" hexadecimal digits): {remedy}"
            )


def by_tag(
    references: Mapping[str, str],
    digests: Mapping[str, str],
    found: Mapping[str, Mapping[str, Any]],
) -> list[str]:
    """Return which references a registry may move: ``<variable> (<reference>)``, sorted.

    Args:
        references: by the variable that holds each, those that come from a registry.
        digests: ``image_digests``.
        found: images on the host by reference, with ``labels``; those built here are left out.
    """
    return sorted(
        f"{variable} ({reference})"
        for variable, reference in references.items()
        if not digest_of(reference, digests)
        and not is_built_here(reference, (found.get(reference) or {}).get("labels") or {})
    )


def pulls_by_digest(references: Iterable[str], digests: Mapping[str, str]) -> list[dict[str, str]]:
    """Return ``{name, reference}`` of what is pulled by `name` and tagged with `reference`."""
    return [
        {"name": f"{repository(reference)}@{digests[reference]}", "reference": reference}
        for reference in sorted(set(references))
        if not is_pinned(reference) and digests.get(reference)
    ]


def pulls_by_name(references: Iterable[str], digests: Mapping[str, str]) -> list[str]:
    """Return the references that are pulled as they are."""
    return sorted({ref for ref in references if is_pinned(ref) or not digests.get(ref)})


def refresh(
    references: Collection[str], answers: Mapping[str, str], current: Mapping[str, str]
) -> dict[str, str]:
    """Return the new ``image_digests``: what registries answered, else what was known.

    Args:
        references: the references that the stack uses; those of no use any more are dropped.
        answers: digests of registries by reference.
        current: ``image_digests`` so far.
    """
    known = {**current, **_digests(answers)}
    return {ref: known[ref] for ref in sorted(references) if ref in known}


def _digests(answers: Mapping[str, Any]) -> dict[str, str]:
    """Return the answers that are digests.

    What a server returns would stand in the inventory, where Ansible runs whatever is in braces.
    """
    return {ref: one for ref, one in answers.items() if isinstance(one, str) and DIGEST.match(one)}


def describe_refresh(
    references: Collection[str],
    answers: Mapping[str, str],
    current: Mapping[str, str],
    unanswered: Mapping[str, str],
) -> list[str]:
    """Return one line per reference: what became of its digest."""
    lines, digests = [], _digests(answers)
    for reference in sorted(references):
        before, now = current.get(reference, ""), digests.get(reference, "")
        if not now:
            reason = last_lines(unanswered.get(reference) or "no answer", 1)
            stays = f"keeps {before[:19]}" if before else "has no digest"
            lines.append(f"{reference} {stays}: {reason}")
        elif before == now:
            lines.append(f"{reference} is unchanged: {now[:19]}")
        else:
            lines.append(
                f"{reference} is pinned to {now[:19]}{f', before {before[:19]}' if before else ''}"
            )
    return lines
