"""Stub: the image is here afterwards."""

from __future__ import annotations

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub

options = {
    "name": {"type": "str"},
    "pull": {"type": "str"},
    "timeout": {"type": "int"},
}
stub = Stub("docker_image_pull", options)
with stub.world.engine() as engine:
    engine["missing"] = [each for each in engine["missing"] if each not in stub.params["name"]]
stub.end(changed=True)
