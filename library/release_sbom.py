#!/usr/bin/python
"""List the packages and licences of the images of a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_sbom
short_description: List the packages and licences of the images of a release
description:
  - Writes C(sbom.json) (CycloneDX 1.6) into the folder of a release, and its SHA-256, the numbers
    of packages and the licences into the release's manifest, as C(sbom).
  - Reads Python packages by the image's own interpreter (C(importlib.metadata)), Debian's by dpkg's
    status and copyright files, Alpine's by apk's database. What an image does not have is named as
    C(unread).
  - An image is read once, in a container without network, capabilities or writable files, that is
    removed. What was read is kept in C(<root>/sbom) by the image's id.
  - Fails for no image.
extends_documentation_fragment: [crisper.docker, crisper.root]
options:
  stack:
    description: Name of the stack.
    type: str
    required: true
  release:
    description: Id of the release.
    type: str
    required: true
  images:
    description: Name to C({ref, id}) of every image of the release.
    type: dict
    required: true
  timeout:
    description: Seconds for reading one image.
    type: int
    default: 60
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: full
author: Crisper
"""

EXAMPLES = r"""
- name: List the packages of the release
  release_sbom:
    root: /opt/crisper
    stack: crisper
    release: 20261120t221500z-1a2b3c4d
    images: "{{ stack_images }}"
"""

RETURN = r"""
sbom:
  description: What the manifest holds of it; empty where it could not be written.
  returned: always
  type: dict
  sample:
    path: sbom.json
    sha256: 1a2b3c
    packages: 612
    images: {backend: {pypi: 95, deb: 104}}
    licences: {MIT: 120, Apache-2.0: 31}
read:
  description: Names of the images that were read now; what is known of the others was kept.
  returned: always
  type: list
  elements: str
  sample: [backend]
problems:
  description: What could not be listed, and why; also told as warnings.
  returned: always
  type: list
  elements: str
  sample: []
"""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.docker.labels import NO_SERVICE
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder
from ansible_collections.crisper.stack.plugins.module_utils.images.identity import identity
from ansible_collections.crisper.stack.plugins.module_utils.images.sbom import (
    SBOM,
    SCRIPT,
    Contents,
    describe,
    document,
    printable,
    summary,
)
from ansible_collections.crisper.stack.plugins.module_utils.process import capture_bytes
from ansible_collections.crisper.stack.plugins.module_utils.release.store import ReleaseStore
from ansible_collections.crisper.stack.plugins.module_utils.text import quote_output

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "stack": {"type": "str", "required": True},
    "release": {"type": "str", "required": True},
    "images": {"type": "dict", "required": True},
    "timeout": {"type": "int", "default": 60},
    "docker_cli": {"type": "str", "default": "docker"},
}
# Another edition reads more of an image: what an older one has kept is read anew.
EDITION = 1
MOST_BYTES = 64 << 20  # of one archive out of an image
MOST_LIST = 16 << 20  # of its Python's output
MOST_COPYRIGHT = 1 << 20
LABEL = "crisper.sbom"
HARMLESS = [
    *("--network", "none", "--read-only", "--cap-drop", "ALL", "--pids-limit", "64"),
    *("--security-opt", "no-new-privileges", "--memory", "512m", "--restart", "no"),
    # No log: the engine would write all of an endless output into it.
    *("--log-driver", "none", "--pull", "never"),
    *("--env", "PYTHONDONTWRITEBYTECODE=1", "--entrypoint", "python3"),
]


class UnreadableError(Exception):
    """An image could not be read; with the reason."""


class Reader:
    """Reads images, one container each."""

    def __init__(self, cli: str, stack: str, timeout: int) -> None:
        self.cli, self.stack, self.timeout = cli, stack, timeout

    def docker(self, *arguments: str, most: int = MOST_BYTES) -> tuple[int, bytes, str]:
        """Return exit code, output and the last line of the errors of a Docker command.

        One that prints more than `most` bytes is ended; its exit code is 0.
        """
        command = [self.cli, *arguments]
        try:
            code, out, errors, cut = capture_bytes(command, b"", self.timeout, most=most)
        except (OSError, subprocess.SubprocessError) as error:
            raise UnreadableError(
                printable(f"docker {arguments[0]}: {type(error).__name__}")
            ) from error
        return 0 if cut else code, out, last_line(errors)

    def remove_leftovers(self) -> None:
        """Remove containers of a run that was killed while it read."""
        label = f"label={LABEL}={self.stack}"
        _, out, _ = self.docker("container", "ls", "--all", "--quiet", "--filter", label)
        if out.split():
            self.docker("rm", "--force", *out.decode().split())

    def read(self, image_id: str) -> dict[str, Any]:
        """Return what an image holds, as `describe` takes it.

        Raises:
            UnreadableError: the engine made no container of it, or did not answer.
        """
        name = f"crisper-sbom-{uuid.uuid4().hex[:12]}"
        options = (*NO_SERVICE, "--label", f"{LABEL}={self.stack}", *HARMLESS)
        code, _, err = self.docker("create", "--name", name, *options, image_id, "-c", SCRIPT)
        if code != 0:
            raise UnreadableError(f"docker create: {quote_output(err)}")
        try:
            status = self.texts(name, "/var/lib/dpkg/status")
            status = status or self.texts(name, "/var/lib/dpkg/status.d")
            copyrights = self.texts(name, "/usr/share/doc", "copyright") if status else {}
            return {
                "dpkg": "\n\n".join(status.values()),
                "copyright": {
                    parts[1]: text
                    for path, text in copyrights.items()
                    if len(parts := path.split("/")) == 3
                },
                "apk": ""
                if status
                else "".join(self.texts(name, "/lib/apk/db/installed").values()),
                "os_release": "".join(self.texts(name, "/usr/lib/os-release").values()),
                "python": self.python(name),
            }
        finally:
            self.docker("rm", "--force", name)

    def python(self, container: str) -> str:
        """Return what the image's own Python lists; '' without one."""
        try:
            _, out, _ = self.docker("start", "--attach", container, most=MOST_LIST)
        except UnreadableError:
            return ""  # it did not end: the container is removed
        return out.decode(errors="replace")

    def texts(self, container: str, path: str, called: str = "") -> dict[str, str]:
        """Return the texts of a file or folder of a container by path, those of one name.

        Links are not followed: they may lead anywhere.
        """
        code, out, _ = self.docker("cp", f"{container}:{path}", "-")
        found: dict[str, str] = {}
        if code != 0:
            return found
        limit = MOST_COPYRIGHT if called else MOST_BYTES
        try:
            with tarfile.open(fileobj=io.BytesIO(out), mode="r:") as archive:
                for member in archive:
                    last = member.name.rpartition("/")[2]
                    if not member.isfile() or called not in ("", last) or member.size > limit:
                        continue
                    stream = archive.extractfile(member)
                    found[member.name] = stream.read().decode(errors="replace") if stream else ""
        except (tarfile.TarError, OSError, ValueError):
            return found  # cut off at the limit: what was read so far
        return found


def last_line(errors: bytes) -> str:
    """Return the last line of what a command wrote to its errors, printable."""
    lines = errors[-4000:].decode(errors="replace").strip().splitlines()
    return printable(lines[-1]) if lines else "no reason was given"


def write(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


class Cache:
    """Contents of images by their identity: ``<root>/sbom/<sha256>.json``."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "sbom"

    def path(self, image: dict[str, Any]) -> Path:
        """Return the file of an image."""
        return self.folder / f"{identity(image).rpartition(':')[2]}.json"

    def get(self, image: dict[str, Any]) -> Contents | None:
        """Return what is known of an image; None for nothing."""
        try:
            found = json.loads(self.path(image).read_text(encoding="utf-8"))
            return found["described"] if found["edition"] == EDITION else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, image: dict[str, Any], described: Contents) -> None:
        """Keep what is known of an image."""
        make_folder(self.folder, 0o700)
        text = json.dumps({"edition": EDITION, "described": described}, separators=(",", ":"))
        write(self.path(image), text.encode())

    def prune(self, used: set[str]) -> None:
        """Remove what is known of images that no kept release has."""
        for path in self.folder.glob("*.json"):
            if path.stem not in used:
                path.unlink(missing_ok=True)


def is_current(folder: Path, manifest: dict[str, Any]) -> bool:
    """Return whether the release has a list of exactly its images."""
    record = manifest.get("sbom") or {}
    images = manifest.get("images", {})
    if not record or record.get("of") != {name: identity(image) for name, image in images.items()}:
        return False
    try:
        return hashlib.sha256((folder / SBOM).read_bytes()).hexdigest() == record.get("sha256")
    except OSError:
        return False


class Report(NamedTuple):
    """Contents of images by name, the names of those that were read now, and what failed."""

    contents: dict[str, Contents]
    read: list[str]
    problems: list[str]


def read_images(reader: Reader, cache: Cache, images: dict[str, Any]) -> Report:
    """Return the contents of images; read those that the cache does not have, each once."""
    contents = {name: cache.get(image) for name, image in images.items()}
    missing = {
        identity(images[name]): name for name, described in contents.items() if described is None
    }
    problems: list[str] = []

    def read(name: str) -> Contents:
        try:
            described = describe(reader.read(images[name]["id"]))
        except UnreadableError as error:
            problems.append(f"The packages of {name} were not listed: {error}")
            return {"distribution": "", "packages": [], "unread": [f"all of it: {error}"]}
        cache.put(images[name], described)
        return described

    new: dict[str, Contents] = {}
    if missing:
        with contextlib.suppress(UnreadableError):  # each image says it
            reader.remove_leftovers()
        with ThreadPoolExecutor(3) as pool:
            answers = {key: pool.submit(read, name) for key, name in missing.items()}
            new = {key: answer.result() for key, answer in answers.items()}
    return Report(
        {
            name: new[identity(images[name])] if known is None else known
            for name, known in contents.items()
        },
        sorted(name for name in images if identity(images[name]) in missing),
        problems,
    )


def write_list(params: dict[str, Any], contents: dict[str, Contents]) -> dict[str, Any]:
    """Write the list of the release; return what its manifest holds of it.

    Raises:
        OSError: the folder of the release cannot be written.
    """
    images, release = params["images"], params["release"]
    entries: dict[str, Any] = {name: {**images[name], **contents[name]} for name in images}
    moment = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = json.dumps(document(params["stack"], release, entries, moment), separators=(",", ":"))
    content = text.encode() + b"\n"
    write(Path(params["root"]) / "releases" / release / SBOM, content)
    return {
        "path": SBOM,
        "sha256": hashlib.sha256(content).hexdigest(),
        **summary(entries),
        "of": {name: identity(image) for name, image in images.items()},
    }


def make(params: dict[str, Any]) -> dict[str, Any]:
    """Write the list of a release, unless it is there; return the module's result.

    Raises:
        OSError, ValueError: the release cannot be read or written.
    """
    root, release, images = Path(params["root"]), params["release"], params["images"]
    store = ReleaseStore(root)
    known = store.manifests
    if is_current(root / "releases" / release, known.get(release, {})):
        return {"changed": False, "sbom": known[release]["sbom"], "read": [], "problems": []}
    cache = Cache(root)
    reader = Reader(params["docker_cli"], params["stack"], params["timeout"])
    report = read_images(reader, cache, images)
    record = write_list(params, report.contents)
    store.annotate(release, {"sbom": record})
    cache.prune(
        {
            identity(image).rpartition(":")[2]
            for manifest in (*known.values(), {"images": images})
            for image in manifest.get("images", {}).values()
        }
    )
    return {"changed": True, "sbom": record, "read": report.read, "problems": report.problems}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    result: dict[str, Any] = {"changed": False, "sbom": {}, "read": [], "problems": []}
    if not module.check_mode:
        try:
            result = make(module.params)
        except (OSError, ValueError, KeyError) as error:
            result["problems"] = [f"The packages of the release were not listed: {error!r}"]
    for problem in result["problems"]:
        module.warn(problem)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
