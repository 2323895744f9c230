"""Images by digest: what is pulled by it, what is by tag only, and what a refresh writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.crisper.stack.plugins.module_utils.images import digests as pins

ROOT = Path(__file__).resolve().parents[3]
ONE, TWO = "sha256:" + "1" * 64, "sha256:" + "2" * 64
REDIS, NGINX, APP = "docker.io/library/redis:8.0", "nginx:1.26", "r.example:5000/shop/app:1"
BUILT = {"labels": {"crisper.platform": "redis"}}


@pytest.mark.parametrize(
    ("reference", "digest"),
    [(REDIS, ONE), (f"{REDIS}@{TWO}", TWO), (NGINX, ""), (f"{NGINX}@{ONE}", ONE)],
)
def test_the_digest_in_a_reference_counts_before_that_of_the_file(reference, digest):
    assert pins.digest_of(reference, {REDIS: ONE, f"{REDIS}@{TWO}": ONE}) == digest
    assert pins.without_digest(reference) in (REDIS, NGINX)


@pytest.mark.parametrize(
    ("digests", "problem"),
    [
        ({}, ""),
        ({REDIS: ONE}, ""),
        ([REDIS], "no mapping"),
        ({f"{REDIS}@{ONE}": ONE}, "keys are references without a digest"),
        ({1: ONE}, "keys are references"),
        ({REDIS: "8.0"}, "no digest (sha256:"),
        ({REDIS: ONE.upper()}, "no digest (sha256:"),
        ({REDIS: None}, "no digest (sha256:"),
    ],
)
def test_a_wrong_digest_is_refused_with_the_remedy(digests, problem):
    found = list(pins.find_digest_problems(digests))
    assert len(found) == bool(problem)
    assert problem in "".join(found)


def test_what_a_registry_may_move_is_told_by_variable():
    references = {
        "image_refs.redis": REDIS,
        "image_refs.nginx": NGINX,
        "image_refs.postgres": f"postgres:17@{ONE}",
        "stack_app.image": APP,
    }
    assert pins.by_tag(references, {APP: ONE}, {}) == [
        f"image_refs.nginx ({NGINX})",
        f"image_refs.redis ({REDIS})",
    ]
    # What was built here is no registry's; an application built on it inherits its label.
    found = {REDIS: BUILT, APP: BUILT}
    assert pins.by_tag(references, {}, found) == [
        f"image_refs.nginx ({NGINX})",
        f"stack_app.image ({APP})",
    ]


def test_what_has_a_digest_is_pulled_by_it_and_named_by_its_reference():
    references = [REDIS, NGINX, APP, REDIS, f"postgres:17@{ONE}"]
    digests = {APP: ONE, REDIS: TWO, f"postgres:17@{ONE}": TWO}
    assert pins.pulls_by_digest(references, digests) == [
        {"name": f"docker.io/library/redis@{TWO}", "reference": REDIS},
        {"name": f"r.example:5000/shop/app@{ONE}", "reference": APP},
    ]
    assert pins.pulls_by_name(references, digests) == [NGINX, f"postgres:17@{ONE}"]


def test_a_refresh_keeps_what_was_not_answered_and_drops_what_is_not_used():
    asked, known = [REDIS, NGINX, APP], {REDIS: ONE, APP: ONE, "old:1": ONE}
    answers = {APP: TWO}
    assert pins.refresh(asked, answers, known) == {APP: TWO, REDIS: ONE}
    lines = pins.describe_refresh(asked, answers, known, {REDIS: "no such host\n", NGINX: ""})
    assert lines == [
        f"{REDIS} keeps {ONE[:19]}: no such host",
        f"{NGINX} has no digest: no answer",
        f"{APP} is pinned to {TWO[:19]}, before {ONE[:19]}",
    ]
    (line,) = pins.describe_refresh([APP], {APP: ONE}, known, {})
    assert line == f"{APP} is unchanged: {ONE[:19]}"


@pytest.mark.parametrize(
    "answer", ["{{ lookup('ansible.builtin.pipe', 'id') }}", "sha512:1", ONE + "\n", [ONE], None]
)
def test_what_is_no_digest_does_not_reach_the_inventory(answer):
    """Regression: a server's answer was written into group_vars, and the next playbook ran it."""
    assert pins.refresh([REDIS, APP], {REDIS: answer, APP: answer}, {REDIS: ONE}) == {REDIS: ONE}
    (line,) = pins.describe_refresh([REDIS], {REDIS: answer}, {REDIS: ONE}, {})
    assert line == f"{REDIS} keeps {ONE[:19]}: no answer"


def test_a_plan_names_the_images_that_a_registry_may_move():
    plan = {"same": True, "current": "r", "steps": [], "images": [], "files_changed": []}
    plan |= {"env_changed": [], "migrations": "none", "refusals": []}
    known = {"release_plan": plan, "stack_model": {"proxy": {"tls": ""}}, "release_held": {}}
    known |= {"release_roles": {}, "release_copy_in_plain": "", "release_settings_warnings": []}
    known["release_application"] = {"warnings": [], "refusals": []}

    def told(**more: object) -> str:
        text = (ROOT / "roles/release/templates/plan.txt.j2").read_text()
        templar = Templar(loader=DataLoader(), variables={**known, **more})
        return str(templar.template(trust_as_template(text)))

    assert "By tag    image_refs.redis (redis:8.0): a registry" in told(
        stack_images_by_tag=["image_refs.redis (redis:8.0)"]
    )
    assert "By tag" not in told(stack_images_by_tag=[])
    assert "By tag" not in told()
