"""Stub: the data fit the images; a new cluster of the same version is made when it is wanted."""

from __future__ import annotations

from typing import Any

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import stub


def answer(module: Any) -> dict[str, Any]:
    """Return what the module would."""
    versions = {"from": "17", "to": "17"}
    if module.params["state"] == "upgraded":
        module.point("upgraded")
        made = {"kept": "v", "dump": "d", "rows": {"public.items": 3}, "settings": []}
        return {"changed": True, **versions, **made}
    if module.params["state"] == "seen":
        return {"words": f"volume {module.params['kept']}, dump {module.params['dump']}"}
    wanted = module.params["upgrade"] and module.params["rebuild"]
    return {"needed": wanted, "put_back": "", **versions}


stub("database_upgrade", answer)
