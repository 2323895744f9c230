"""Models of kept releases: what an older edition wrote is read under today's keys."""

from __future__ import annotations

import base64
import json

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.release.model import (
    manifest_model,
    read_model,
)


@pytest.mark.parametrize("key", ["front", "proxy"])
def test_the_entry_point_is_read_from_manifests_of_any_edition(key):
    manifest = {"id": "r", "model": {"pools": [], key: {"tls": "own"}}}
    assert read_model(manifest) == {"pools": [], "proxy": {"tls": "own"}}
    assert key in manifest["model"], "the manifest stays as it is"


KINDS = [("fixed", "stateful"), ("single", "singleton"), ("web", "web"), ("stateful", "stateful")]


@pytest.mark.parametrize(("former", "kind"), KINDS)
def test_the_kinds_of_services_are_read_from_manifests_of_any_edition(former, kind):
    manifest = {"model": {"rollout": {"a": {"kind": former, "replicas": 2}}}}
    assert read_model(manifest) == {"rollout": {"a": {"kind": kind, "replicas": 2}}}
    assert manifest["model"]["rollout"]["a"]["kind"] == former, "the manifest stays as it is"


@pytest.mark.parametrize("services", [None, [], "text", {"a": None}, {"a": {"kind": ["fixed"]}}])
def test_services_of_a_wrong_shape_stay_as_they_are(services):
    assert read_model({"model": {"rollout": services}}) == {"rollout": services}


@pytest.mark.parametrize("release", [{}, {"model": None}, {"model": {}}, {"model": [1]}])
def test_a_release_without_a_model_has_none(release):
    assert read_model(release) == {}


@pytest.mark.parametrize(
    ("manifest", "model"),
    [
        ({"id": "r", "model": {"front": {"tls": ""}}}, {"proxy": {"tls": ""}}),
        ({"id": "r"}, {}),
        ({"model": "text"}, {}),
        (["list"], {}),
    ],
)
def test_the_model_is_read_from_the_file_of_a_manifest(manifest, model):
    content = base64.b64encode(json.dumps(manifest).encode()).decode()
    assert manifest_model({"content": content}) == model


@pytest.mark.parametrize("read", [{}, {"skipped": True}, {"failed": True}, {"content": "bm9uZQ=="}])
def test_a_manifest_that_was_not_read_has_no_model(read):
    assert manifest_model(read) == {}
