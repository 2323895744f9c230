"""Models in the manifests of kept releases, which older editions may have written."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

# Key of an older edition -> key of this one.
RENAMED = {"front": "proxy"}
# Kind of service of an older edition -> kind of this one.
RENAMED_KINDS = {"fixed": "stateful", "single": "singleton"}


def read_model(release: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a release with the names of this edition; empty when it has none.

    Args:
        release: its manifest, or another mapping with its ``model``.
    """
    found = release.get("model")
    model = dict(found) if isinstance(found, Mapping) else {}
    for former, name in RENAMED.items():
        if former in model:
            model.setdefault(name, model.pop(former))
    if isinstance(services := model.get("rollout"), dict):
        model["rollout"] = {name: _read_service(each) for name, each in services.items()}
    return model


def _read_service(service: Any) -> Any:
    """Return how a service is replaced, with the name that its kind has in this edition."""
    if not isinstance(service, dict) or "kind" not in service:
        return service
    return {**service, "kind": RENAMED_KINDS.get(str(service["kind"]), service["kind"])}


def manifest_model(read: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model of a release from its manifest; empty where that cannot be read.

    Args:
        read: result of M(slurp) of the manifest; skipped or failed has no content.
    """
    try:
        manifest = json.loads(base64.b64decode(read.get("content") or ""))
    except (ValueError, RecursionError):
        return {}
    return read_model(manifest) if isinstance(manifest, dict) else {}
