"""A release's name and fingerprint, and a diff that never shows a value."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from ansible_collections.crisper.stack.plugins.module_utils.model.environment import (
    proxy_environment,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.file_values import env_file_line
from ansible_collections.crisper.stack.plugins.module_utils.release import manifest as release
from hypothesis import given
from hypothesis import strategies as st

FILES = [
    {"path": "a", "mode": "0644", "content": "one"},
    {"path": "b", "mode": "0600", "content": "two"},
]
IMAGES = {"backend": {"ref": "r", "id": "sha256:1"}}


def test_the_order_of_files_does_not_matter():
    assert release.fingerprint(FILES, IMAGES) == release.fingerprint(FILES[::-1], IMAGES)


def test_everything_that_decides_what_runs_changes_the_fingerprint():
    base = release.fingerprint(FILES, IMAGES)
    others = [
        release.fingerprint([FILES[0] | {"content": "x"}, FILES[1]], IMAGES),
        release.fingerprint([FILES[0] | {"mode": "0600"}, FILES[1]], IMAGES),
        release.fingerprint([FILES[0] | {"path": "c"}, FILES[1]], IMAGES),
        release.fingerprint(FILES, {"backend": {"ref": "r", "id": "sha256:2"}}),
        release.fingerprint(FILES, IMAGES, ["alembic", "upgrade", "head"]),
        release.fingerprint(FILES, IMAGES, ["alembic", "upgrade", "heads"]),
    ]
    assert len({base, *others}) == 7


def test_a_reference_alone_does_not():
    renamed = {"backend": {"ref": "other", "id": "sha256:1"}}
    assert release.fingerprint(FILES, IMAGES) == release.fingerprint(FILES, renamed)


def test_the_id_is_utc_and_an_image_tag():
    seoul = datetime(2026, 11, 21, 7, 15, tzinfo=timezone(timedelta(hours=9)))
    name = release.release_id(seoul, "1a2b3c4d5e6f")
    assert name == "20261120t221500z-1a2b3c4d"
    assert release.RELEASE_ID.match(name)


def test_env_changes_are_names_only():
    before = '# x\nA="1"\nB="2"\n'
    after = '# x\nB="3"\nC="4"\n'
    assert release.env_names_changed(before, after) == ["-A", "~B", "+C"]


def test_no_proxy_is_no_change_of_the_environment():
    """Regression: the plan showed ten lines +ALL_PROXY … of a site without a proxy."""
    none, one = (
        "".join(
            f"{env_file_line(name, value)}\n"
            for name, value in proxy_environment(proxies, ["redis"], {}).items()
        )
        for proxies in ({}, {"http_proxy": "http://p:3128"})
    )
    names = ["HTTP_PROXY", "NO_PROXY", "http_proxy", "no_proxy"]
    assert release.env_names_changed("", none) == []
    assert release.env_names_changed('A="1"\n', none + 'A="1"\n') == []
    assert release.env_names_changed(none, "") == []
    assert release.env_names_changed(none, one) == [f"+{name}" for name in names]
    assert release.env_names_changed(one, none) == [f"-{name}" for name in names]
    assert release.env_names_changed(one, one.replace("3128", "1")) == [
        "~HTTP_PROXY",
        "~http_proxy",
    ]


@given(st.dictionaries(st.sampled_from("ABCD"), st.integers(10**6, 10**7).map(str)))
def test_a_redacted_env_shows_no_value(values):
    text = "".join(f'{name}="{value}"\n' for name, value in values.items())
    shown = release.redacted_env(text, 'A="7"\n')
    assert not any(value in shown for value in values.values())
    assert all(name in shown for name in values)


def manifest(**differs):
    """A release with data services."""
    known = {
        "nginx": "n1",
        "data": "d1",
        "images": {"redis": {"id": "r1"}, "backend": {"id": "b1"}},
        "checksums": {"secrets/redis.conf": "s1", ".env.qdrant": "q1", ".env.prod": "p1"},
    }
    return known | differs


def test_what_two_releases_have_in_common_is_known():
    def same(**differs):
        return release.same_parts(manifest(), manifest(**differs), ["redis"])

    assert same() == {"nginx": True, "data": True}
    assert same(nginx="n2") == {"nginx": False, "data": True}
    assert same(data="d2") == {"nginx": True, "data": False}
    assert not same(images={"redis": {"id": "r2"}, "backend": {"id": "b1"}})["data"]
    assert same(images={"redis": {"id": "r1"}, "backend": {"id": "b2"}})["data"]
    assert not same(checksums={**manifest()["checksums"], "secrets/redis.conf": "s2"})["data"]
    assert same(checksums={**manifest()["checksums"], ".env.prod": "p2"})["data"]
    # one from before these were written down is never the same
    assert release.same_parts({}, {}, []) == {"nginx": False, "data": False}
