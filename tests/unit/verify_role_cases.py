"""What other tests share with test_verify_role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import updated_fact
from rendering import roles
from stack_values import GOOD

ROOT = Path(__file__).resolve().parents[2]


SKIPPED = {"changed": False, "skipped": True}


GOOD_ANSWER = {"url": "http://x/health", "status": 200, "ok": True, "expected": [200]}


def value(name: str, model: dict[str, Any], **values: Any) -> Any:
    """What a variable of the role comes to."""
    roles()  # loads the plugins
    known: dict[str, Any] = {}
    for part in ("defaults", "vars"):
        path = str(ROOT / f"roles/verify/{part}/main.yml")
        known |= DataLoader().load_from_file(path, trusted_as_template=True)
    known |= {
        "stack_app": GOOD["stack_app"],
        "stack_http_port": 80,
        "stack_address": "192.0.2.1",
        "stack_model": model,
        "rollout_report": {"after": {"release": "r", "steps": []}, "proof": {"findings": []}},
        "verify_release": "r",
        "deploy": updated_fact({}, {}),
        "__verify_uploads": SKIPPED,
        "__verify_inside": SKIPPED,
        "__verify_users": {"shared": []},
        "__verify_refusals": {"refused": [], "problem": ""},
        "__verify_outside": {"answers": [GOOD_ANSWER], "open": [], "address": "192.0.2.1"},
        **values,
    }
    templar = Templar(loader=DataLoader(), variables=known)
    return templar.template(trust_as_template("{{ " + name + " }}"))
