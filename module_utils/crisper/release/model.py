"""Models in the manifests of kept releases, which older editions may have written."""

from __future__ import annotations

import base64
import json
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


def manifest_model(read: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a release from its manifest; empty where that cannot be read.

    Args:
        read: result of M(slurp) of the manifest; skipped or failed has no content.
    """
    try:
        manifest = json.loads(base64.b64decode(read.get("content") or ""))
    except (ValueError, RecursionError):
        return {}
    found = manifest.get("model") if isinstance(manifest, dict) else None
    return read_model({"model": found}) if isinstance(found, dict) else {}
