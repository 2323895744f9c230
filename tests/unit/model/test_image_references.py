"""References of images and logins of registries: which are refused, which a registry may move."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.images import (
    database_images,
    moving_references,
    registry_references,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from stack_values import GOOD

REGISTRY = {"registry": "registry.example.com:5000", "username": "u", "password": "p4ssw0rd"}


@pytest.mark.parametrize(
    ("logins", "said"),
    [
        ("registry.example.com", "registry_logins is no list"),
        ([["p4ssw0rd"]], "registry_logins[0] is no mapping"),
        ([REGISTRY | {"passwd": "p4ssw0rd"}], "registry_logins[0] has a key that nothing reads"),
        ([REGISTRY | {"password": ""}], "registry_logins[0].password is empty"),
        ([{"registry": "r.example"}], "registry_logins[0].username is empty"),
        ([REGISTRY | {"password": 987654}], "registry_logins[0].password is no text: quote it"),
        ([REGISTRY | {"password": "p4ssw0rd\n"}], "password holds a control character"),
        ([REGISTRY | {"registry": "https://r.example"}], "'https://r.example': give a host name"),
        ([REGISTRY | {"registry": "u:p4ssw0rd@r.example"}], "registry holds a login: give a host"),
        ([REGISTRY, REGISTRY], "'registry.example.com:5000' is listed 2 times"),
    ],
)
def test_a_bad_login_of_a_registry_is_named_without_its_password(logins, said):
    assert validate(GOOD | {"registry_logins": [REGISTRY]}) == []
    findings = validate(GOOD | {"registry_logins": logins})
    assert any(said in finding for finding in findings), findings
    assert "p4ssw0rd" not in str(findings)
    assert "987654" not in str(findings)


DIGEST = f"@sha256:{'a' * 64}"


def pinned(**values):
    refs = {name: f"r/{name}:1" for name in ("nginx", "postgres", "redis", "qdrant", "python")}
    return GOOD | {"image_refs": refs, "image_pinning": "strict", "image_source": "local"} | values


def test_strict_pinning_names_each_reference_without_digest():
    assert validate(pinned()) == []  # all is built here
    findings = validate(pinned(image_source="registry"))
    names = [finding.partition(" ")[0] for finding in findings]
    assert names == [f"image_refs.{n}" for n in ("nginx", "postgres", "redis", "qdrant", "python")]
    assert "'r/redis:1'" in findings[2]
    assert "@sha256" in findings[2]
    assert "image_pinning" in findings[2]
    app = GOOD["stack_app"] | {"image": "r/app:latest"}
    (finding,) = validate(pinned(stack_app=app))
    assert finding.startswith("stack_app.image is 'r/app:latest'")
    app["image"] += DIGEST
    refs = {name: ref + DIGEST for name, ref in pinned()["image_refs"].items() if name != "python"}
    refs["python"] = "r/python:1"  # nothing is built on it
    assert validate(pinned(stack_app=app, image_source="registry", image_refs=refs)) == []
    assert "choose follow or strict" in str(validate(GOOD | {"image_pinning": "x"}))


def test_digests_of_the_inventory_pin_references():
    refs = {name: f"r/{name}:1" for name in ("nginx", "postgres", "redis", "qdrant", "python")}
    digests = {ref: DIGEST[1:] for ref in refs.values()}
    values = pinned(image_source="registry", image_refs=refs, image_digests=digests)
    assert validate(values) == []
    assert moving_references(values) == []
    assert registry_references(values, ("registry",))["image_refs.redis"] == "r/redis:1"
    del digests["r/redis:1"]
    (finding,) = validate(values)
    assert finding.startswith("image_refs.redis is 'r/redis:1'")
    assert "playbooks/digests.yml" in finding
    (finding,) = validate(GOOD | {"image_digests": {"r/redis:1": "latest"}})
    assert finding.startswith("image_digests['r/redis:1'] is 'latest'")


def test_moving_references_are_those_that_a_registry_may_have_replaced():
    refs = {"nginx": "r/nginx:1", "postgres": f"r/postgres:1{DIGEST}", "redis": "r/redis:1"}
    refs |= {"qdrant": "r/nginx:1", "python": "r/python:1", "mariadb": "r/mariadb:1"}
    values = GOOD | {"image_refs": refs, "image_source": "auto"}
    assert moving_references(values) == ["r/nginx:1", "r/python:1", "r/redis:1"]
    assert moving_references(values | {"image_source": "local"}) == []
    app = GOOD["stack_app"] | {"image": "r/app:1", "frontend": {"image": "r/web:1"}}
    values |= {"stack_app": app, "image_source": "local"}
    assert moving_references(values) == ["r/app:1", "r/web:1"]


def test_images_of_databases_are_those_that_the_stack_has():
    refs = {"nginx": "r/nginx:1", "postgres": "r/postgres:1", "mariadb": "r/mariadb:1"}
    assert database_images(refs, False) == {"postgres": "r/postgres:1"}
    assert database_images(refs, True) == {"postgres": "r/postgres:1", "mariadb": "r/mariadb:1"}
    assert database_images({}, True) == {}
