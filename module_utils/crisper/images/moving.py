"""Moving references: whether their registries have another image than the host behind them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .registry import FORMAT

# Exit code, output and errors of a Docker command.
DockerCall = Callable[..., tuple[int, str, str]]


def images_on_host(
    references: Sequence[str], images: Mapping[str, Mapping[str, str]], docker: DockerCall
) -> dict[str, dict[str, Any]]:
    """Return reference -> image on the host, for the references that may have moved.

    What the current release runs counts, not what the reference names on the host by now: somebody
    may have pulled by hand.

    Args:
        references: of the release that is wanted.
        images: name to ``{ref, id}`` of the release that serves.
        docker: runs a Docker command.
    """
    if not references:
        return {}
    ids = {image["ref"]: image["id"] for image in images.values()}
    names = {reference: ids.get(reference) or reference for reference in references}
    code, out, _ = docker("image", "inspect", "--format", FORMAT, *names.values())
    if code == 0:
        return {
            reference: json.loads(line)
            for reference, line in zip(names, out.splitlines(), strict=True)
        }
    found = {}  # one of them is not here: a line less, and nobody says which
    for reference, name in names.items():
        # After a move to another image store the id may be another one.
        for each in dict.fromkeys((name, reference)):
            code, out, _ = docker("image", "inspect", "--format", FORMAT, each)
            if code == 0:
                found[reference] = json.loads(out)
                break
    return found
