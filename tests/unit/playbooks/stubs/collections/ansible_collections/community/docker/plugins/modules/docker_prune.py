"""Stub: there is nothing to prune."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub

options = {
    "networks": {"type": "bool"},
    "networks_filters": {"type": "dict"},
    "volumes": {"type": "bool"},
    "volumes_filters": {"type": "dict"},
    "images": {"type": "bool"},
    "images_filters": {"type": "dict"},
}
Stub("docker_prune", options).end()
