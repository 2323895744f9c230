"""Which platform images are missing, and in which order they are made."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

SPEC = importlib.util.spec_from_file_location(
    "crisper_images", Path(__file__).parents[3] / "plugins/filter/crisper_images.py"
)
assert SPEC
assert SPEC.loader
images = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(images)

PARENTS = {name: "base" for name in ("python", "nginx", "redis")} | {"qdrant": "python"}
NAMES = ["base", *PARENTS]
REFS = {name: f"r/{name}:1" for name in NAMES}
RECIPES = {name: f"{name}-recipe" for name in NAMES}


def built(name: str, recipe: str | None = None) -> dict[str, Any]:
    labels = {images.PLATFORM: name, images.RECIPE: recipe or RECIPES[name]}
    return {"ref": REFS[name], "id": "sha256:1", "labels": labels}


PULLED = {"ref": "r/redis:1", "id": "sha256:2", "labels": {"maintainer": "them"}}


@pytest.mark.parametrize(
    ("image", "fits"),
    [
        (None, set()),
        (PULLED, {"auto", "registry"}),
        (built("redis"), {"auto", "local"}),
        (built("redis", "an older one"), set()),
    ],
)
@pytest.mark.parametrize("source", ["auto", "local", "registry"])
def test_an_image_fits_its_source(image: Any, fits: set[str], source: str) -> None:
    found = {REFS["redis"]: image} if image else {}
    missing = images.crisper_images_missing(["redis"], found, REFS, RECIPES, source)
    assert missing == ([] if source in fits else ["redis"])


@pytest.mark.parametrize("source", ["auto", "registry"])
def test_an_image_that_its_registry_has_replaced_is_missing(source: str) -> None:
    """Regression: a new image under the same tag was pulled by no deploy."""
    found = {REFS["redis"]: PULLED | {"moved": "sha256:aa"}, REFS["nginx"]: PULLED | {"moved": ""}}
    names = ["redis", "nginx"]
    assert images.crisper_images_missing(names, found, REFS, RECIPES, source) == ["redis"]
    apps = {"backend": REFS["redis"], "frontend": REFS["nginx"], "other": "r/absent:1"}
    assert images.crisper_apps_missing(apps, found) == ["backend", "other"]
    # A plan does not know the id of what is to come.
    assert images.crisper_image_result(REFS["redis"], found)["id"] == ""
    assert images.crisper_image_result(REFS["nginx"], found)["id"] == PULLED["id"]


@pytest.mark.parametrize(
    ("missing", "cached", "there", "order"),
    [
        ([], [], [], []),
        (["redis"], [], ["base"], ["redis"]),
        (["redis"], [], [], ["base", "redis"]),
        (["redis"], ["redis"], [], ["redis"]),  # an archive brings its own base
        (["qdrant"], [], ["base", "python"], ["qdrant"]),
        (["qdrant"], [], ["base"], ["python", "qdrant"]),
        (["qdrant"], ["python"], [], ["python", "qdrant"]),
        (["python", "qdrant"], [], ["base", "python"], ["python", "qdrant"]),
        (["nginx", "redis"], ["nginx"], [], ["nginx", "base", "redis"]),
    ],
)
def test_parents_come_first_and_only_when_needed(
    missing: list[str], cached: list[str], there: list[str], order: list[str]
) -> None:
    found = {REFS[name]: built(name) for name in there}
    assert images.crisper_images_order(missing, cached, PARENTS, found, REFS, RECIPES) == order


@given(
    missing=st.sets(st.sampled_from(NAMES[1:])),
    cached=st.sets(st.sampled_from(NAMES)),
    there=st.sets(st.sampled_from(NAMES)),
)
def test_whatever_is_there_the_order_can_be_built(
    missing: set[str], cached: set[str], there: set[str]
) -> None:
    found = {REFS[name]: built(name) for name in there - missing}
    order = images.crisper_images_order(missing, cached, PARENTS, found, REFS, RECIPES)
    assert missing <= set(order)
    assert len(order) == len(set(order))
    ready = there - missing
    for name in order:
        assert name in cached or name == "base" or PARENTS[name] in ready
        ready.add(name)


def test_an_image_that_is_built_is_named_by_its_sources_and_its_base() -> None:
    contexts = {"backend": {"digest": "a"}, "frontend": {"digest": "b"}, "nginx": {"digest": "c"}}
    bases = {"backend": "sha256:1", "frontend": "sha256:2"}
    tags = images.crisper_app_tags(["backend"], contexts, bases)
    assert tags == {"backend": hashlib.sha256(b"asha256:1").hexdigest()}
    app = {"frontend": {"image": "r/web:1"}}
    assert images.crisper_app_references(app, "demo", tags) == {
        "backend": f"demo/backend:src-{tags['backend'][:12]}",
        "frontend": "r/web:1",
    }
    moved = images.crisper_app_tags(["backend"], contexts, bases | {"backend": "sha256:3"})
    assert moved != tags


def test_an_application_that_is_pulled_keeps_its_reference() -> None:
    app = {"image": "r/app:1"}
    assert images.crisper_app_references(app, "demo", {}) == {"backend": "r/app:1"}
