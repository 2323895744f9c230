"""Render the templates of nginx and Compose, and read what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from stack_values import GOOD

ROOT = Path(__file__).resolve().parents[2]


HEADERS = yaml.safe_load((ROOT / "roles/stack/defaults/main.yml").read_text())[
    "stack_security_headers"
]


RELEASE = yaml.safe_load((ROOT / "roles/release/vars/main.yml").read_text())
PAGE = (ROOT / "templates/nginx/maintenance.html.j2").read_text()


def rendered(name: str, **values: Any) -> str:
    """A template of a release, rendered as role `release` does."""
    filter_loader.add_directory(str(ROOT / "plugins/filter"))
    app = {**GOOD["stack_app"], "backend_paths": ["/admin/login", "/api/"], "frontend": {"port": 1}}
    app["frontend"]["health_path"] = "/"
    given: dict[str, Any] = {
        **GOOD,
        "stack_security_headers": HEADERS,
        "stack_app": app,
        **values,
    }
    images = dict.fromkeys(("nginx", "postgres", "redis", "qdrant", "mariadb"), "x:1")
    probes = ("web", "heartbeat", "ping", "beat")
    variables = {
        **given,
        "ansible_managed": "x",
        "inventory_hostname": "app1",
        "image_refs": images,
        "release_redis_conf": "x",
        "release_maintenance": PAGE,
        **{f"release_{name}_probe": "x" for name in probes},
        "release_page_probe": RELEASE["release_page_probe"],
        "stack_model": stack_model(given),
    }
    text = (ROOT / "templates" / name).read_text()
    return str(Templar(loader=DataLoader(), variables=variables).template(trust_as_template(text)))


def nginx(**values: Any) -> str:
    return rendered("nginx/nginx.conf.j2", **values)


def blocks(text: str, opening: str) -> list[str]:
    """Inner texts of the blocks that begin with `opening {`."""
    found = []
    for start in re.finditer(re.escape(opening) + r" \{", text):
        depth, at = 1, start.end()
        while depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        found.append(text[start.end() : at - 1])
    return found
