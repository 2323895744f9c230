"""The bill of materials of a release: what is read of images, its form, and what it never does."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import time
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
import release_sbom
from ansible.module_utils.testing import patch_module_args
from ansible_collections.crisper.stack.plugins.module_utils.images import sbom
from hypothesis import given, settings
from hypothesis import strategies as st
from referencing import Registry, Resource

RELEASE = "20261127t000000z-aaaaaaaa"
STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12
Description: GNU C Library
 with a second line

Package: gone
Status: deinstall ok config-files
Version: 1

Package: bash
Status: install ok installed
Architecture: amd64
Version: 1:5.2.37-2+b5
"""
DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Files: *
License: GPL-3+

Files: lib/*
License: LGPL-2.1+
 text of it
"""
PROSE = "On Debian systems, the text is in /usr/share/common-licenses/GPL-2.\n"


def schema() -> jsonschema.Draft7Validator:
    """CycloneDX's own schema, as the library that pip-audit uses ships it."""
    folder = files("cyclonedx") / "schema" / "_res"

    def read(name: str) -> dict:
        return json.loads((folder / name).read_text())

    names = [f"bom-{sbom.SPEC_VERSION}.SNAPSHOT.schema.json"]
    names += ["spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json"]
    main = read(names[0])
    base = main["$id"].rpartition("/")[0]
    registry = Registry().with_resources(
        (f"{base}/{name}", Resource.from_contents(read(name))) for name in names
    )
    return jsonschema.Draft7Validator(main, registry=registry)


SCHEMA = schema()


def image(contents: dict, number: int = 1) -> dict:
    return {"ref": "x:1", "id": f"sha256:{number:064}", **sbom.describe(contents)}


def document(**images: dict) -> dict:
    made = sbom.document("shop", RELEASE, images, "2026-11-27T22:00:00Z")
    SCHEMA.validate(made)
    return json.loads(json.dumps(made))


def python_output(*entries: dict) -> str:
    return f"noise of sitecustomize\n{sbom.MARK}{json.dumps(entries)}\n"


def test_the_scripts_output_names_every_python_package_with_its_licence():
    done = subprocess.run(
        [sys.executable, "-c", sbom.SCRIPT], capture_output=True, text=True, check=True
    )
    found = {item["name"].lower(): item for item in sbom.python_packages(done.stdout)}
    names = {d.metadata["Name"].lower() for d in distributions()}
    assert found.keys() == names
    assert found["celery"]["licences"] == ["BSD-3-Clause"]
    assert found["hypothesis"]["licences"] == ["MPL-2.0"]


@pytest.mark.parametrize(
    ("entry", "licences"),
    [
        ({"expression": "MIT OR Apache-2.0", "licence": "x"}, ["MIT OR Apache-2.0"]),
        ({"classifiers": ["License :: OSI Approved :: MIT License"]}, ["MIT"]),
        ({"classifiers": ["License :: OSI Approved"], "licence": "Odd Licence"}, ["Odd Licence"]),
        ({"licence": "Apache License 2.0"}, ["Apache-2.0"]),
        ({"licence": "Copyright by somebody\nAll of the text"}, []),
        ({"classifiers": ["License :: Other/Proprietary License"]}, ["Other/Proprietary License"]),
        ({}, []),
    ],
)
def test_the_most_exact_statement_of_a_licence_counts(entry, licences):
    assert sbom.python_licences(entry) == licences


def test_debian_packages_have_versions_and_the_licences_of_their_copyright_files():
    contents = {"dpkg": STATUS, "os_release": 'ID=debian\nVERSION_ID="13"\n'}
    contents |= {"copyright": {"libc6": DEP5, "bash": PROSE}}
    made = document(redis=image(contents))
    bash, libc = made["components"][0]["components"]
    assert (libc["name"], libc["version"]) == ("libc6", "2.41-12")
    assert libc["purl"] == "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13"
    assert bash["purl"] == "pkg:deb/debian/bash@1%3A5.2.37-2+b5?arch=amd64&distro=debian-13"
    assert [entry["license"]["name"] for entry in libc["licenses"]] == ["GPL-3+", "LGPL-2.1+"]
    assert [entry["license"]["name"] for entry in bash["licenses"]] == ["GPL-2"]
    unread = [p["value"] for p in made["components"][0]["properties"] if "unread" in p["name"]]
    assert unread == ["Python packages: no python3 (3.8 or newer) on its search path"]


def test_alpine_and_images_with_nothing_are_told_apart():
    apk = image(
        {"apk": "P:musl\nV:1.2.5-r9\nL:MIT\n\nP:busybox\nV:1.37\n", "os_release": "ID=alpine"}
    )
    nothing = image({}, 2)
    made = document(small=apk, static=nothing)
    assert [c["purl"] for c in made["components"][0]["components"]] == [
        "pkg:apk/alpine/busybox@1.37?distro=alpine",
        "pkg:apk/alpine/musl@1.2.5-r9?distro=alpine",
    ]
    assert len(nothing["unread"]) == 2
    assert sbom.summary({"static": nothing})["images"] == {"static": {"unread": nothing["unread"]}}


def test_the_summary_counts_packages_and_licences():
    entries = [{"name": f"p{n}", "version": "1", "expression": "MIT"} for n in range(3)]
    backend = image({"python": python_output(*entries, {"name": "q"}), "dpkg": STATUS})
    assert sbom.summary({"backend": backend}) == {
        "packages": 6,
        "images": {"backend": {"pypi": 4, "deb": 2}},
        "licence_names": 1,
        "licences": {"MIT": 3, "not stated": 3},
    }


@pytest.mark.parametrize("words", ["", "{", "{}", "[" * 100_000], ids=len)
def test_an_image_that_prints_anything_else_has_no_python_packages(words):
    """Regression: lists within lists ended the deploy."""
    assert sbom.python_packages(sbom.MARK + words) is None


def test_a_package_that_is_there_twice_counts_as_the_first_on_the_search_path():
    entries = [{"name": "Foo.Bar", "version": "2"}, {"name": "foo-bar", "version": "1"}]
    found = sbom.python_packages(python_output(*entries))
    assert [(item["name"], item["version"]) for item in found] == [("Foo.Bar", "2")]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"name": st.text(min_size=1), "version": st.none() | st.text()},
            optional={
                "expression": st.text() | st.integers(),
                "licence": st.text(),
                "classifiers": st.integers() | st.lists(st.text() | st.integers()),
            },
        ),
        max_size=4,
    ),
    st.text(),
    st.text(),
    st.text(),
)
def test_what_hostile_images_say_stays_short_printable_and_valid(entries, status, notice, release):
    """An image's packages may be called anything: a terminal and a viewer get one clean line."""
    contents = {"python": python_output(*entries), "dpkg": status, "os_release": release}
    contents |= {"copyright": {"x": notice}, "apk": status}
    made = document(hostile=image(contents))
    for component in made["components"][0]["components"]:
        texts = [component["name"], component["version"], component["purl"]]
        texts += [v for entry in component.get("licenses", []) for v in [str(entry)]]
        assert all(text.isprintable() for text in texts)
        assert len(component["name"]) <= sbom.LONGEST_TEXT
    references = [c["bom-ref"] for c in made["components"][0]["components"]]
    assert len(references) == len(set(references))


# A Docker client with images that are folders: bin/docker <command> …
DOCKER = """#!{python}
import io, json, os, sys, tarfile, time
from pathlib import Path
world = Path({world!r})
command, *rest = sys.argv[1:]
def endless():
    for _ in range(400):
        sys.stdout.buffer.write(bytes(1 << 20))
    (world / "all-was-read").touch()
    sys.exit()
with (world / "log").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if command == "create":
    image = world / "images" / rest[-3].replace(":", "_")
    if not image.exists():
        sys.exit("No such image")
    name = rest[rest.index("--name") + 1]
    (world / "containers" / name).symlink_to(image)
elif command == "cp":
    name, _, path = rest[0].partition(":")
    source = world / "containers" / name / path.lstrip("/")
    if not source.exists():
        sys.exit("Could not find the file")
    if (source / "endless").exists():
        endless()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        archive.add(source, source.name)
elif command == "start":
    image = world / "containers" / rest[-1]
    if (image / "hangs").exists():
        time.sleep(60)
    if (image / "endless").exists():
        endless()
    if not (image / "python").exists():
        sys.exit(127)
    print((image / "python").read_text())
elif command == "rm":
    for name in rest[1:]:
        (world / "containers" / name).unlink()
elif command == "container":
    print(" ".join(path.name for path in (world / "containers").iterdir()))
"""


class Site:
    """A stack's folder, and an engine of which images are folders."""

    def __init__(self, folder: Path) -> None:
        self.root, self.world = folder / "opt", folder / "world"
        self.folder = self.root / "releases" / RELEASE
        self.folder.mkdir(parents=True)
        (self.world / "images").mkdir(parents=True)
        (self.world / "containers").mkdir()
        self.images: dict[str, dict] = {}
        self.cli = folder / "docker"
        self.cli.write_text(DOCKER.format(python=sys.executable, world=str(self.world)))
        self.cli.chmod(0o755)
        self.manifest({})

    def manifest(self, images: dict) -> None:
        text = json.dumps({"id": RELEASE, "images": images})
        (self.folder / "manifest.json").write_text(text)

    def add(self, name: str, **contents: str) -> Path:
        identity = f"sha256:{len(self.images):064}"
        self.images[name] = {"ref": f"{name}:1", "id": identity}
        image = self.world / "images" / identity.replace(":", "_")
        for path, text in contents.items():
            target = image / path.replace("__", "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        image.mkdir(exist_ok=True)
        self.manifest(self.images)
        return image

    def run(self, capsys, check: bool = False, **more) -> dict:
        params = {"root": str(self.root), "stack": "shop", "release": RELEASE}
        params |= {"images": self.images, "docker_cli": str(self.cli), **more}
        with patch_module_args({**params, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            release_sbom.main()
        return json.loads(capsys.readouterr().out)

    def log(self) -> list[list[str]]:
        path = self.world / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


def test_a_release_gets_its_list_and_an_image_is_read_once(site, capsys):
    site.add("backend", python=python_output({"name": "six", "version": "1", "expression": "MIT"}))
    image = site.add("redis", var__lib__dpkg__status=STATUS)
    notice = image / "usr/share/doc/bash/copyright"
    notice.parent.mkdir(parents=True)
    notice.write_text(PROSE)
    (notice.parent.parent / "libc6").symlink_to("bash")  # leads anywhere: not followed
    result = site.run(capsys)
    assert (result["changed"], result["read"]) == (True, ["backend", "redis"])
    path = site.folder / "sbom.json"
    SCHEMA.validate(json.loads(path.read_text()))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    manifest = json.loads((site.folder / "manifest.json").read_text())
    assert manifest["sbom"] == result["sbom"]
    assert manifest["sbom"]["licences"] == {"GPL-2": 1, "MIT": 1, "not stated": 1}
    assert list((site.world / "containers").iterdir()) == []
    created = next(words for words in site.log() if words[0] == "create")
    assert created[created.index("--network") + 1] == "none"
    assert "--read-only" in created

    calls = len(site.log())
    assert site.run(capsys)["changed"] is False
    assert len(site.log()) == calls, "an unchanged release asked the engine"
    # Another release of the same images, and one new image.
    site.add("nginx", var__lib__dpkg__status=STATUS)
    assert site.run(capsys)["read"] == ["nginx"]
    # What no kept release has is forgotten.
    assert len(list((site.root / "sbom").iterdir())) == 3
    del site.images["nginx"]
    site.manifest(site.images)
    assert site.run(capsys)["read"] == []
    assert len(list((site.root / "sbom").iterdir())) == 2


def test_a_list_that_was_altered_or_lost_is_made_again(site, capsys):
    site.add("redis", var__lib__dpkg__status=STATUS)
    first = site.run(capsys)["sbom"]
    (site.folder / "sbom.json").write_text("{}")
    again = site.run(capsys)
    assert (again["changed"], again["read"]) == (True, [])
    assert again["sbom"]["packages"] == first["packages"]
    (site.folder / "sbom.json").unlink()
    assert site.run(capsys)["changed"]


def test_an_image_that_cannot_be_read_fails_nothing(site, capsys):
    """Without Python, shell or package database; not there; one that never ends."""
    site.add("static")
    site.add("hangs", hangs="")
    site.add("redis", var__lib__dpkg__status=STATUS)
    site.images["lost"] = {"ref": "lost:1", "id": "sha256:" + "f" * 64}
    started = time.monotonic()
    result = site.run(capsys, timeout=3)
    assert time.monotonic() - started < 30
    assert not result.get("failed")
    told = result["sbom"]["images"]
    assert told["redis"]["deb"] == 2
    assert len(told["static"]["unread"]) == len(told["hangs"]["unread"]) == 2
    assert "No such image" in told["lost"]["unread"][0]
    assert "The packages of lost were not listed" in " ".join(result["problems"])
    assert list((site.world / "containers").iterdir()) == []
    SCHEMA.validate(json.loads((site.folder / "sbom.json").read_text()))


def test_what_an_image_says_without_end_is_cut_while_it_says_it(site, capsys):
    """Regression: it was cut when all of it was in memory, 1,159 MB of 600."""
    site.add("endless", endless="")
    for folder in ("var/lib/dpkg/status", "usr/share/doc"):
        made = site.world / "images" / f"sha256_{0:064}" / folder
        made.mkdir(parents=True)
        (made / "endless").touch()
    result = site.run(capsys, timeout=20)
    assert not result.get("failed")
    assert not (site.world / "all-was-read").exists()
    assert len(result["sbom"]["images"]["endless"]["unread"]) == 2
    created = next(words for words in site.log() if words[0] == "create")
    assert created[created.index("--log-driver") + 1] == "none"
    assert list((site.world / "containers").iterdir()) == []


@pytest.mark.parametrize("broken", ["engine", "release", "manifest"])
def test_nothing_that_is_broken_fails_the_deploy(site, capsys, broken):
    site.add("redis", var__lib__dpkg__status=STATUS)
    if broken == "release":
        (site.folder / "manifest.json").unlink()
        site.folder.rmdir()
    if broken == "manifest":
        (site.folder / "manifest.json").write_text("{")
    cli = "/nowhere/docker" if broken == "engine" else str(site.cli)
    result = site.run(capsys, docker_cli=cli)
    assert not result.get("failed")
    assert "listed" in " ".join(result["problems"])


def test_check_mode_reads_and_writes_nothing(site, capsys):
    site.add("redis", var__lib__dpkg__status=STATUS)
    assert site.run(capsys, check=True)["changed"] is False
    assert site.log() == []
    assert not (site.folder / "sbom.json").exists()
