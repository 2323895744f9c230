"""The decisions about a host's Docker Engine."""

import contextlib

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.host import engine as logic
from hypothesis import given
from hypothesis import strategies as st
from signing_key import FINGERPRINT, KEY


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("26.1.5+dfsg1", (26, 1, 5)),
        ("v2.26.1-4", (2, 26, 1)),
        ("2.20", (2, 20)),
        ("28.2.2", (28, 2, 2)),
        ("", ()),
        ("dev", ()),
    ],
)
def test_version(text, expected):
    assert logic.version(text) == expected


@pytest.mark.parametrize(
    ("found", "wanted", "enough"),
    [
        ("24.0.0", "24.0", True),
        ("24", "24.0", True),
        ("20.10.24+dfsg1", "24.0", False),
        ("2.9.0", "2.20", False),  # by number, not by letter
        ("", "24.0", False),
    ],
)
def test_at_least(found, wanted, enough):
    assert logic.at_least(found, wanted) is enough


def wanted(source="auto", **more):
    return logic.Wanted(
        source=source,
        engine="24.0",
        compose="2.20",
        distro_releases=["bookworm", "noble", "trixie"],
        next_suites={"bookworm": "trixie"},
        **more,
    )


NONE = logic.EngineFacts()
GOOD = logic.EngineFacts("26.1.5+dfsg1", "2.26.1-4", "distro", containers=3)
DOCKERS = logic.EngineFacts("28.2.2", "2.36.0", "docker", containers=3)
OLD = logic.EngineFacts("20.10.24+dfsg1", "", "distro")
BOOKWORM = logic.Host("debian", "bookworm", has_mirror=True)


@pytest.mark.parametrize(
    ("source", "engine", "answers", "expected"),
    [
        ("auto", GOOD, False, ("present", False)),
        ("auto", GOOD, True, ("present", False)),
        ("auto", NONE, True, ("docker", True)),
        ("auto", NONE, False, ("distro", True)),
        ("auto", OLD, False, ("distro", True)),
        ("distro", NONE, True, ("distro", True)),
        ("distro", GOOD, False, ("distro", False)),
        ("docker", DOCKERS, False, ("docker", False)),
        ("docker", NONE, True, ("docker", True)),
        ("present", GOOD, False, ("present", False)),
    ],
)
def test_decide(source, engine, answers, expected):
    decision = logic.decide(wanted(source), engine, BOOKWORM, answers)
    assert (decision.source, decision.install) == expected
    assert decision.problems == []


@pytest.mark.parametrize(
    ("want", "engine", "host", "answers", "says"),
    [
        (wanted("present"), NONE, BOOKWORM, False, ["'present'", "no Docker Engine was found"]),
        (wanted("present"), OLD, BOOKWORM, False, ["20.10.24", "24.0", "no Compose v2 plugin"]),
        (wanted("docker"), NONE, BOOKWORM, False, ["docker_repository_url", "distro"]),
        (wanted(), NONE, logic.Host("fedora", "", False), False, ["'fedora'", "present"]),
        (wanted(), NONE, logic.Host("debian", "bullseye", True), False, ["bullseye", "docker"]),
        (wanted(), NONE, logic.Host("debian", "bookworm", False), False, ["no apt source"]),
        (wanted("docker"), GOOD, BOOKWORM, True, ["3 container(s)", "docker_replace_engine"]),
        (
            wanted(),
            logic.EngineFacts("26.1", "2.26", "distro", swarm=True),
            BOOKWORM,
            False,
            ["docker_live_restore"],
        ),
    ],
)
def test_decide_says_what_forbids_it(want, engine, host, answers, says):
    problems = logic.decide(want, engine, host, answers).problems
    assert len(problems) == 1
    for text in says:
        assert text in problems[0]


def test_an_engine_with_containers_is_replaced_only_when_that_is_allowed():
    decision = logic.decide(wanted("docker", replace=True), GOOD, BOOKWORM, True)
    assert decision.install
    assert decision.problems == []


@given(
    st.sampled_from(["auto", "docker", "distro", "present"]),
    st.builds(
        logic.EngineFacts,
        st.sampled_from(["", "20.10.24", "26.1.5+dfsg1"]),
        st.sampled_from(["", "2.9.0", "2.26.1-4"]),
        st.sampled_from(["", "docker", "distro", "other"]),
        st.integers(0, 3),
        st.booleans(),
    ),
    st.booleans(),
)
def test_a_running_container_is_never_endangered_unasked(source, engine, answers):
    decision = logic.decide(wanted(source), engine, BOOKWORM, answers)
    if engine.version and engine.containers and decision.install:
        assert decision.problems
    if decision.source == "present":
        assert not decision.install
    if source == "auto" and not logic.shortcomings(engine, wanted()):
        assert decision.source == "present"


DEB822 = """# comment
Types: deb deb-src
# http://snapshot.example.org/archive/debian/20250520T000000Z
URIs: http://mirror.example.org/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example.org/debian-security http://other.example.org/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: trixie
Components: main

Types: deb-src
URIs: http://mirror.example.org/debian
Suites: trixie
Components: main
"""
ONE_LINE = """
# deb http://off.example.org/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://mirror.example.org/debian bookworm main
deb-src http://mirror.example.org/debian trixie main
deb http://mirror.example.org/debian-security/ bookworm-security main contrib
"""


@pytest.mark.parametrize(
    ("text", "deb822", "suite", "expected"),
    [
        (
            DEB822,
            True,
            "bookworm",
            {
                "uri": "http://mirror.example.org/debian",
                "signed_by": "/usr/share/keyrings/debian-archive-keyring.gpg",
            },
        ),
        (
            DEB822,
            True,
            "bookworm-security",
            {"uri": "http://mirror.example.org/debian-security", "signed_by": ""},
        ),
        (DEB822, True, "trixie", None),
        (
            ONE_LINE,
            False,
            "bookworm",
            {"uri": "http://mirror.example.org/debian", "signed_by": "/usr/share/keyrings/x.gpg"},
        ),
        (
            ONE_LINE,
            False,
            "bookworm-security",
            {"uri": "http://mirror.example.org/debian-security/", "signed_by": ""},
        ),
        (ONE_LINE, False, "trixie", None),
        ("", True, "bookworm", None),
    ],
)
def test_mirror(text, deb822, suite, expected):
    assert logic.mirror_of(logic.apt_sources(text, deb822), suite) == expected


def test_a_key_within_a_source_stays_whole():
    text = "Types: deb\nURIs: http://x/debian\nSuites: s\nComponents: main\nSigned-By:\n A\n .\n B"
    assert logic.mirror_of(logic.apt_sources(text, True), "s")["signed_by"] == "\n A\n .\n B"


@given(st.text())
def test_any_source_file_is_survived(text):
    for deb822 in (True, False):
        logic.mirror_of(logic.apt_sources(text, deb822), "bookworm")


JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.dictionaries(st.text(max_size=3), JSON, max_size=4)


@given(KEYS, KEYS)
def test_merging_keeps_foreign_keys_and_is_done_after_once(existing, wanted_keys):
    once = logic.merged(existing, wanted_keys)
    assert logic.merged(once, wanted_keys) == once
    assert logic.changed_keys(once, logic.merged(once, wanted_keys)) == []
    for key in set(existing) - set(wanted_keys):
        assert once[key] == existing[key]


def test_a_null_removes_a_key_of_any_depth():
    existing = {"a": 1, "log-opts": {"tag": "x", "max-size": "1m"}}
    wanted_keys = {"a": None, "absent": None, "log-opts": {"tag": None, "max-size": "10m"}}
    assert logic.merged(existing, wanted_keys) == {"log-opts": {"max-size": "10m"}}


@pytest.mark.parametrize(
    ("old", "new", "action"),
    [
        ({}, {}, "none"),
        ({}, {"live-restore": True}, "reload"),
        ({"debug": True}, {"registry-mirrors": ["https://m"]}, "reload"),
        ({}, {"live-restore": True, "log-driver": "json-file"}, "restart"),
        ({"default-address-pools": []}, {}, "restart"),
        ({"labels": ["a=b"]}, {"labels": ["a=b"]}, "none"),
        ({}, {"features": {"buildkit": True}}, "reload"),
        # The image store is chosen when the engine starts.
        ({}, {"features": {"containerd-snapshotter": True}}, "restart"),
        (
            {"features": {"containerd-snapshotter": True}},
            {"features": {"buildkit": True}},
            "restart",
        ),
        ({"features": None}, {"features": {}}, "reload"),
    ],
)
def test_action(old, new, action):
    assert logic.action_for(old, new) == action


def test_the_image_store_is_named_as_waiting_for_a_restart():
    new = {"features": {"containerd-snapshotter": True}, "debug": True, "data-root": "/x"}
    assert logic.restart_keys({}, new) == ["data-root", "features.containerd-snapshotter"]


@pytest.mark.parametrize(
    "data",
    [
        KEY,
        KEY.replace(b"\n", b"\r\n"),
        KEY.replace(b"BLOCK-----\n\n", b"BLOCK-----\nVersion: x\n\n", 1),
    ],
)
def test_fingerprint(data):
    assert logic.openpgp_fingerprints(data) == [FINGERPRINT]


def test_two_keys_have_two_fingerprints():
    assert logic.openpgp_fingerprints(KEY + KEY) == [FINGERPRINT] * 2


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>404</html>", KEY.replace(b"mDME", b"mD!E"), KEY[:120] + KEY[-40:], b"\xff" * 9],
)
def test_what_is_no_key_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        logic.openpgp_fingerprints(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_key_or_refused(data):
    with contextlib.suppress(ValueError):
        assert all(len(print_) == 40 for print_ in logic.openpgp_fingerprints(data))
