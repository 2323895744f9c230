"""What other tests share with test_ledger_counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.crisper.stack.plugins.module_utils.deploy.fact import updated_fact

ROOT = Path(__file__).resolve().parents[2]


def summary(**values: Any) -> list[str]:
    """The lines of a deploy's summary."""
    text = (ROOT / "roles/finish/templates/summary.txt.j2").read_text()
    known: dict[str, Any] = {"finish_release": {}, "finish_drained": {}, "finish_counted": {}}
    known["finish_rollout"] = {"put_back": [], "unjudged": ""}
    known["finish_unfinished"] = []
    known["deploy"] = updated_fact({}, {})
    known |= {"stack_secrets_generate": False, "finish_outcome": "new", **values}
    templar = Templar(loader=DataLoader(), variables=known)
    return templar.template(trust_as_template(text)).splitlines()
