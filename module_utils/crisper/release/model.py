"""Models in the manifests of kept releases, which older editions may have written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Key of an older edition -> key of this one.
RENAMED = {"front": "proxy"}


def read_model(release: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a release with the keys of this edition; empty when it has none.

    Args:
        release: its manifest, or another mapping with its ``model``.
    """
    model = dict(release.get("model") or {})
    for former, name in RENAMED.items():
        if former in model:
            model.setdefault(name, model.pop(former))
    return model
