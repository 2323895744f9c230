"""The same image is recognised in every image store of the engine.

The digests and documents are those of Debian's engine 26.1.5: an image of its overlay2 store,
saved, and loaded into its containerd store; and one that was built there, with an attestation.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.images import identity as logic
from ansible_collections.crisper.stack.plugins.module_utils.images.identity import (
    config_digest,
    identity,
    is_same,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import (
    fingerprint,
    same_parts,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.retention import prune
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback_check import (
    check_rollback,
    known_images,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.store import ReleaseStore
from hypothesis import given
from hypothesis import strategies as st

CONFIG = "sha256:f623fe5ff3f5a18f0c566d41f4cf43cd6d2c5b9ac0537446522f47b57bdd8b0c"
LOADED = "sha256:c93abf4ffda644f54db504a0b81821a96c21bd288c996a9be0d1538e453cd9c4"
BUILT = "sha256:60183d474069f062c1e25127619de9cbe7d271465c5958f2b63c35947183965b"
INNER = "sha256:b2955f61118c3e6b43f3966c3c22b0ea5bcf9af5ab4453cb16adf817b6428391"
ATTESTED = "sha256:a84e2037af97a34ad4d9557229c5ebb86dfb19cfe743af0d20da6d0bfbd071e5"
MANIFEST = json.dumps({"schemaVersion": 2, "config": {"digest": CONFIG}, "layers": []})
UNKNOWN = {"architecture": "unknown", "os": "unknown"}


def index(*entries: tuple[str, dict[str, str] | None]) -> str:
    manifests = [{"digest": d, **({"platform": p} if p else {})} for d, p in entries]
    return json.dumps({"schemaVersion": 2, "manifests": manifests})


CONTENT = {
    LOADED: MANIFEST,
    BUILT: index((INNER, {"architecture": "amd64", "os": "linux"}), (ATTESTED, UNKNOWN)),
    INNER: MANIFEST,
}


@pytest.mark.parametrize(
    ("image", "digests", "content", "expected"),
    [
        # A graph driver: pulled images have names by digest, which are not their id.
        (CONFIG, [], {}, CONFIG),
        (CONFIG, ["nginx@sha256:1c054d"], {}, CONFIG),
        # containerd's store: loaded, built with an attestation, pulled for many machine types.
        (LOADED, [f"nginx@{LOADED}"], CONTENT, CONFIG),
        (BUILT, [f"my@{BUILT}"], CONTENT, CONFIG),
        (
            "sha256:aa",
            ["redis@sha256:aa"],
            {
                "sha256:aa": index(
                    ("sha256:arm", {"architecture": "arm64", "os": "linux"}),
                    (INNER, {"architecture": "amd64", "os": "linux"}),
                ),
                INNER: MANIFEST,
            },
            CONFIG,
        ),
        (
            "sha256:aa",
            ["x@sha256:aa"],
            {"sha256:aa": index((INNER, None)), INNER: MANIFEST},
            CONFIG,
        ),
        # Nobody tells: no answer is better than a wrong one.
        (LOADED, [f"nginx@{LOADED}"], {}, ""),
        (LOADED, [f"nginx@{LOADED}"], {LOADED: "no json"}, ""),
        ("sha256:aa", ["x@sha256:aa"], {"sha256:aa": index(("sha256:aa", None))}, ""),
        ("sha256:aa", ["x@sha256:aa"], {"sha256:aa": index(("sha256:b", UNKNOWN))}, ""),
    ],
)
def test_the_digest_of_the_configuration(
    image: str, digests: list[str], content: dict[str, str], expected: str
) -> None:
    read: Callable[[str], str] = lambda digest: content.get(digest, "")  # noqa: E731
    assert config_digest(image, digests, read, "x86_64") == expected


@given(st.text() | st.recursive(st.none() | st.text(), lambda x: st.lists(x)).map(json.dumps))
def test_any_content_is_survived(text: str) -> None:
    assert isinstance(config_digest("sha256:aa", ["x@sha256:aa"], lambda _: text), str)


def test_content_is_read_of_containerd_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logic, "BLOBS", (str(tmp_path / "none"), str(tmp_path)))
    monkeypatch.setattr(logic, "SOCKETS", ())
    (tmp_path / "sha256").mkdir()
    (tmp_path / "sha256" / "aa").write_text(MANIFEST)
    assert logic.read_content("sha256:aa") == MANIFEST
    assert logic.read_content("sha256:bb") == ""
    assert logic.read_content("sha256:../aa") == ""


GRAPH = {"ref": "docker.io/library/nginx:1.26", "id": CONFIG}
MOVED = {"ref": "docker.io/library/nginx:1.26", "id": LOADED, "config": CONFIG}
OLDER = {"ref": "docker.io/library/nginx:1.26", "id": LOADED}  # of an edition that knew ids alone
OTHER = {"ref": "docker.io/library/nginx:1.26", "id": "sha256:bb", "config": "sha256:cc"}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (GRAPH, MOVED, True),
        (MOVED, OLDER, True),
        (GRAPH, OLDER, False),
        (GRAPH, OTHER, False),
        ({}, {}, False),
        ({}, MOVED, False),
        ({"id": ""}, {"id": ""}, False),
    ],
)
def test_images_of_releases(one: dict[str, str], other: dict[str, str], expected: bool) -> None:
    assert is_same(one, other) is expected
    assert is_same(other, one) is expected


def test_a_release_has_the_same_fingerprint_in_both_stores() -> None:
    assert fingerprint([], {"nginx": GRAPH}) == fingerprint([], {"nginx": MOVED})
    assert fingerprint([], {"nginx": GRAPH}) != fingerprint([], {"nginx": OTHER})
    one, other = ({"data": "a", "images": {"redis": image}} for image in (GRAPH, MOVED))
    assert same_parts(one, other, ["redis"])["data"]


OLD, NEW = "20261120t221500z-1a2b3c4d", "20261121t221500z-5e6f7a8b"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two proved releases that were made with a graph driver, on an engine with containerd's."""
    monkeypatch.setattr(logic, "read_content", lambda digest: CONTENT.get(digest, ""))
    images = {"backend": {"ref": "demo/backend:src-1", "id": CONFIG}}
    for name in (OLD, NEW):
        (tmp_path / "releases" / name).mkdir(parents=True)
        manifest: dict[str, Any] = {"id": name, "created": name, "images": images}
        manifest |= {"verified": {"tasks": []}}
        (tmp_path / "releases" / name / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "current").symlink_to(f"releases/{NEW}")
    return tmp_path


def test_a_release_whose_images_were_moved_can_be_put_back(root: Path) -> None:
    names = f"{LOADED} demo/backend:{OLD} demo/backend@{LOADED}\n"
    found, problem = check_rollback(
        ReleaseStore(root), "demo", "", False, lambda *_: (1, names, "")
    )
    assert (problem, found["named"]) == ("", True)
    assert known_images(lambda *_: (1, names, ""), [f"demo/backend:{OLD}"]) == {
        f"demo/backend:{OLD}": (LOADED, CONFIG)
    }


def test_one_whose_images_were_not_moved_is_refused(root: Path) -> None:
    problem = check_rollback(ReleaseStore(root), "demo", "", False, lambda *_: (1, "", ""))[1]
    assert "the image of backend (sha256:f623fe5ff3f5) is gone" in problem


def test_names_of_images_that_are_in_use_stay(root: Path) -> None:
    removed: list[str] = []

    def docker(*words: str) -> tuple[int, str, str]:
        if words[1] == "rm":
            removed.extend(words[2:])
        return 0, "", ""

    path = root / "releases" / NEW / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["images"]["backend"] |= {"id": LOADED, "config": CONFIG}
    path.write_text(json.dumps(manifest))
    prune(ReleaseStore(root), "demo", 1, docker, look_only=False)
    assert removed == [f"demo/backend:{OLD}"]  # not demo/backend:src-1


def test_identity_of_nothing_is_empty() -> None:
    assert identity({}) == ""
