"""Models of kept releases: what an older edition wrote is read under today's keys."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.release.model import read_model


@pytest.mark.parametrize("key", ["front", "proxy"])
def test_the_entry_point_is_read_from_manifests_of_any_edition(key):
    manifest = {"id": "r", "model": {"pools": [], key: {"tls": "own"}}}
    assert read_model(manifest) == {"pools": [], "proxy": {"tls": "own"}}
    assert key in manifest["model"], "the manifest stays as it is"


@pytest.mark.parametrize("release", [{}, {"model": None}, {"model": {}}])
def test_a_release_without_a_model_has_none(release):
    assert read_model(release) == {}
