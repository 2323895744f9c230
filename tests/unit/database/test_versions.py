"""Which image can open which data: versions of volumes, images and tags."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.database.versions import (
    compare,
    find_misfits,
    image_version,
    postgres_folder,
    tag_version,
)


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("docker.io/library/postgres:17-trixie", (17,)),
        ("postgres:17.6", (17, 6)),
        ("registry.example.com:5000/postgres:18", (18,)),
        ("mariadb:11.8", (11, 8)),
        ("postgres:v16.1-alpine", (16, 1)),
        ("postgres:latest", ()),
        ("registry.example.com:5000/postgres", ()),
        ("postgres@sha256:17aa", ()),
        ("postgres:18@sha256:17aa", (18,)),
    ],
)
def test_a_tag_tells_the_version_when_it_has_one(reference: str, version: tuple[int, ...]):
    assert tag_version(reference) == version


@pytest.mark.parametrize(
    ("reference", "mount", "data"),
    [
        ("postgres:17-trixie", "/var/lib/postgresql/data", "/var/lib/postgresql/data"),
        ("example.com/own/db:stable", "/var/lib/postgresql/data", "/var/lib/postgresql/data"),
        ("postgres:18.1", "/var/lib/postgresql", "/var/lib/postgresql/18/docker"),
    ],
)
def test_the_volume_is_where_the_image_has_it(reference: str, mount: str, data: str):
    assert postgres_folder(reference) == {"mount": mount, "data": data}


def test_an_image_that_is_here_knows_better_than_its_tag():
    assert image_version("postgres", ["A=b", "PG_MAJOR=18"], "shop/db:3") == (18,)
    assert image_version("postgres", ["PG_VERSION=17.6-1.pgdg"], "shop/db:3") == (17, 6)
    assert image_version("mariadb", ["MARIADB_VERSION=1:11.8.2+maria~ubu"], "x") == (11, 8, 2)
    assert image_version("postgres", [], "postgres:16") == (16,)


@pytest.mark.parametrize(
    ("service", "data", "wanted", "remedy"),
    [
        ("postgres", (17,), (17, 6), None),
        ("postgres", (17,), (18,), "playbooks/upgrade.yml"),
        ("postgres", (18,), (17,), "set image_refs.postgres back to PostgreSQL 18"),
        ("postgres", (), (18,), None),
        ("postgres", (17,), (), None),
        ("mariadb", (11, 4, 2), (11, 8), None),
        ("mariadb", (11, 8, 2), (11, 8, 1), None),
        ("mariadb", (11, 8, 2), (11, 4), "set image_refs.mariadb back to MariaDB 11.8"),
        ("mariadb", (11, 8, 2), (11,), None),
    ],
)
def test_what_cannot_be_opened_is_refused_with_both_versions(
    service: str, data: tuple[int, ...], wanted: tuple[int, ...], remedy: str | None
):
    found = compare(service, data, wanted, f"demo_{service}", "x/y:1")
    if remedy is None:
        assert found is None
        return
    assert found
    assert remedy in found.remedy
    assert ("upgrade.yml" in found.remedy) is (data < wanted)
    for part in (f"image_refs.{service}", f"demo_{service}", str(data[0]), str(wanted[0])):
        assert part in found.message


@pytest.mark.parametrize("file", ["PG_VERSION", "18/docker/PG_VERSION", "data/PG_VERSION"])
def test_the_volume_says_what_wrote_it(tmp_path: Path, file: str):
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("18\n")

    def call(*arguments: str) -> tuple[int, str, str]:
        if arguments[0] == "image":
            return (0, '["PG_MAJOR=17"]', "") if arguments[-1] == "sha256:1" else (1, "", "none")
        mine = arguments[-1] == "demo_postgres"
        return (0, json.dumps(str(tmp_path)), "") if mine else (1, "", "no such volume")

    images: dict[str, Any] = {"postgres": {"ref": "postgres:17", "id": "sha256:1"}, "redis": {}}
    (found,) = find_misfits(call, "demo", images)
    assert found.service == "postgres"
    assert find_misfits(call, "other", images) == []
    assert find_misfits(call, "demo", {"postgres": {"ref": "postgres:18"}}) == []
