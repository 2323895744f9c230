"""Contents of the images of a release: a CycloneDX bill of materials with licences.

Pure functions of what images hold; ``library/release_sbom.py`` reads them. Texts come from images
that others made: they are cut and made printable before they are kept.

Runs on the target's Python (3.8 or newer).
"""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import quote

SPEC_VERSION = "1.6"
SBOM = "sbom.json"
LONGEST_TEXT = 200
MOST_LICENCES = 40  # that a manifest names, of those that most packages have
MARK = "crisper-sbom:"  # before what the script prints: images may print at the start of Python
NOT_TOLD = "not stated"

# Run by an image's own interpreter, with its own search path; 3.8 or newer.
SCRIPT = f"""
import json, sys
try:
    from importlib.metadata import distributions
except ImportError:
    sys.exit(3)
found = []
for distribution in distributions():
    try:
        data = distribution.metadata
        entry = {{"name": data["Name"], "version": distribution.version}}
        entry["expression"] = data["License-Expression"] or ""
        entry["licence"] = (data["License"] or "")[:400]
        entry["classifiers"] = [c for c in data.get_all("Classifier") or () if "License" in c]
        found.append(entry)
    except Exception:
        continue
sys.stdout.write("\\n{MARK}" + json.dumps(found) + "\\n")
"""

# SPDX ids, by what packages write instead of them (lower case).
SPDX = {
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "isc": "ISC",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit": "MIT",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "mpl-2.0": "MPL-2.0",
    "psf-2.0": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
    "zlib": "Zlib",
}
DEP5_LICENCE = re.compile(r"^License:[ \t]*(\S[^\n]*)", re.MULTILINE)
COMMON = re.compile(r"/usr/share/common-licenses/([A-Za-z0-9.+-]*[A-Za-z0-9])")


class Package(TypedDict):
    """A package of an image; ``kind`` is pypi, deb or apk."""

    kind: str
    name: str
    version: str
    licences: list[str]


class DebianPackage(Package):
    """A package of dpkg's database."""

    architecture: str


class Contents(TypedDict):
    """The packages of an image, and what could not be read."""

    distribution: str
    packages: list[Package]
    unread: list[str]


class ImageContents(Contents):
    """The contents of an image of a release."""

    ref: str
    id: str


def printable(text: Any) -> str:
    """Return one line of at most 200 printable characters."""
    line = " ".join(str(text or "")[: LONGEST_TEXT * 4].split())
    return "".join(c if c.isprintable() else "?" for c in line)[:LONGEST_TEXT]


def package(kind: str, name: Any, version: Any, licences: Iterable[str] = ()) -> Package:
    """Return a package; its texts are printable."""
    names = sorted({printable(licence) for licence in licences} - {""})[:40]
    return {
        "kind": kind,
        "name": printable(name),
        "version": printable(version),
        "licences": names,
    }


def python_packages(output: str) -> list[Package] | None:
    """Return the packages that `SCRIPT` printed; None where it printed none of its own."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    try:
        entries = json.loads(lines[-1][len(MARK) :]) if lines else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(entries, list):
        return None
    found: dict[str, Package] = {}
    for entry in entries:
        if isinstance(entry, dict) and entry.get("name"):
            # The first one on the search path is the one that is imported.
            found.setdefault(
                re.sub(r"[-_.]+", "-", str(entry["name"])).lower(),
                package("pypi", entry["name"], entry.get("version"), python_licences(entry)),
            )
    return [found[name] for name in sorted(found)]


def python_licences(entry: Mapping[str, Any]) -> list[str]:
    """Return the licences of a Python package, from its most exact statement."""
    if entry.get("expression"):
        return [str(entry["expression"])]
    classifiers = entry.get("classifiers")
    classifiers = classifiers if isinstance(classifiers, list) else []
    names = [str(text).rpartition(" :: ")[2] for text in classifiers if " :: " in str(text)]
    exact = [SPDX[name.lower()] for name in names if name.lower() in SPDX]
    if exact:
        return exact
    licence = str(entry.get("licence") or "").strip()
    if licence and "\n" not in licence and len(licence) <= 100:  # others give the whole text
        return [SPDX.get(licence.lower(), licence)]
    return [name for name in names if name != "OSI Approved"]


def dpkg_packages(status: str, licences: Mapping[str, Sequence[str]]) -> list[DebianPackage]:
    """Return the installed packages of dpkg's status file.

    Args:
        status: its text.
        licences: names of licences by package, as `debian_licences` gives them.
    """
    found: dict[tuple[str, str], DebianPackage] = {}
    for block in re.split(r"\n\s*\n", status):
        fields = dict(re.findall(r"^([A-Za-z-]+):[ \t]*(.*)$", block, re.MULTILINE))
        name = fields.get("Package", "")
        # Parts of status.d (images without dpkg) tell no status.
        if name and fields.get("Status", "installed").split()[-1:] == ["installed"]:
            architecture = printable(fields.get("Architecture"))
            found[name, architecture] = {
                **package("deb", name, fields.get("Version"), licences.get(name, ())),
                "architecture": architecture,
            }
    return [found[key] for key in sorted(found)]


def debian_licences(text: str) -> list[str]:
    """Return the licences that a Debian copyright file names.

    Those of its ``License:`` fields where it is machine-readable, else the common licences that it
    refers to; none where it tells in prose only.
    """
    if re.match(r"\s*Format(-Specification)?:", text):
        names = {name.strip() for name in DEP5_LICENCE.findall(text)}
        if names:
            return sorted(names)
    return sorted(set(COMMON.findall(text)))


def apk_packages(text: str) -> list[Package]:
    """Return the packages of Alpine's database."""
    found: dict[str, Package] = {}
    for block in text.split("\n\n"):
        fields = dict(line.split(":", 1) for line in block.splitlines() if line[1:2] == ":")
        if fields.get("P"):
            licences = [fields["L"]] if fields.get("L") else []
            found[fields["P"]] = package("apk", fields["P"], fields.get("V"), licences)
    return [found[name] for name in sorted(found)]


def distribution(os_release: str) -> str:
    """Return ``debian-13`` of an os-release file; '' where it names none."""
    pairs = (line.partition("=") for line in os_release.splitlines())
    fields = {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}
    name = fields.get("ID", "")
    version = fields.get("VERSION_ID", "")
    return printable(f"{name}-{version}" if name and version else name)


def describe(contents: Mapping[str, Any]) -> Contents:
    """Return the packages of an image and what could not be read.

    Args:
        contents: texts of the image: ``python`` (output of `SCRIPT`), ``dpkg``, ``apk``,
            ``os_release``, and ``copyright``, copyright files by package.
    """
    licences = {n: debian_licences(t) for n, t in (contents.get("copyright") or {}).items()}
    packages = python_packages(contents.get("python") or "")
    unread = []
    if packages is None:
        unread.append("Python packages: no python3 (3.8 or newer) on its search path")
    system: list[Package] = [*dpkg_packages(contents.get("dpkg") or "", licences)]
    system += apk_packages(contents.get("apk") or "")
    if not system:
        unread.append("system packages: neither dpkg's nor apk's database is in it")
    return {
        "distribution": distribution(contents.get("os_release") or ""),
        "packages": [*(packages or []), *system],
        "unread": unread,
    }


def document(
    stack: str, release: str, images: Mapping[str, ImageContents], moment: str
) -> dict[str, Any]:
    """Return the bill of materials of a release, CycloneDX 1.6.

    Args:
        stack: name of the stack.
        release: id of the release.
        images: name -> ``{ref, id, distribution, packages, unread}``.
        moment: UTC time, ISO 8601.
    """
    seed = json.dumps([stack, release, {name: images[name]["id"] for name in sorted(images)}])
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC_VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC_VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, seed)}",
        "version": 1,
        "metadata": {
            "timestamp": moment,
            "tools": {"components": [{"type": "application", "name": "crisper"}]},
            "component": {
                "type": "application",
                "bom-ref": "stack",
                "name": stack,
                "version": release,
            },
        },
        "components": [_image(name, images[name]) for name in sorted(images)],
        "dependencies": [
            {"ref": "stack", "dependsOn": [f"image:{name}" for name in sorted(images)]}
        ],
    }


def _image(name: str, image: ImageContents) -> dict[str, Any]:
    properties = [("crisper:image:ref", image["ref"]), ("crisper:image:id", image["id"])]
    properties += [("crisper:unread", reason) for reason in image["unread"]]
    components = [_component(name, item, image["distribution"]) for item in image["packages"]]
    return {
        "type": "container",
        "bom-ref": f"image:{name}",
        "name": name,
        "version": printable(image["id"]),
        "properties": [{"name": n, "value": printable(value)} for n, value in properties],
        # Names may become the same where they are made printable; the schema wants each once.
        "components": list({item["bom-ref"]: item for item in components}.values()),
    }


def _component(image: str, item: Package, system: str) -> dict[str, Any]:
    address = purl(item, system)
    component = {
        "type": "library",
        "bom-ref": f"{image}:{address}",
        "name": item["name"],
        "version": item["version"],
        "purl": address,
    }
    licences = [_licence(name) for name in item["licences"]]
    if len(item["licences"]) == 1 and re.search(r" (AND|OR|WITH) ", item["licences"][0]):
        licences = [{"expression": item["licences"][0]}]
    return {**component, "licenses": licences} if licences else component


def _licence(name: str) -> dict[str, Any]:
    key = "id" if name in SPDX.values() else "name"
    return {"license": {key: name}}


def purl(item: Package, system: str) -> str:
    """Return the package URL of a package of an image whose distribution is `system`."""
    name, version = item["name"], quote(item["version"], safe=".+-~")
    if item["kind"] == "pypi":
        return f"pkg:pypi/{quote(re.sub(r'[-_.]+', '-', name).lower())}@{version}"
    family = system.partition("-")[0] or {"deb": "debian", "apk": "alpine"}[item["kind"]]
    qualifiers = [("arch", str(item.get("architecture", ""))), ("distro", system)]
    query = "&".join(f"{key}={quote(value, safe='.-')}" for key, value in qualifiers if value)
    address = f"pkg:{item['kind']}/{quote(family)}/{quote(name, safe='+.-')}@{version}"
    return f"{address}?{query}" if query else address


def summary(images: Mapping[str, ImageContents]) -> dict[str, Any]:
    """Return what a manifest holds of it: ``{packages, images, licences, licence_names}``.

    ``images`` has the number of packages by kind, and ``unread``; ``licences`` the number of
    packages by licence, for the most frequent ones; ``licence_names`` how many names there are. A
    package with several licences counts for each.
    """
    counts: Counter[str] = Counter()
    counted = {}
    for name, image in images.items():
        for item in image["packages"]:
            counts.update(item["licences"] or [NOT_TOLD])
        kinds = Counter(item["kind"] for item in image["packages"])
        counted[name] = {**kinds, **({"unread": image["unread"]} if image["unread"] else {})}
    return {
        "packages": sum(len(image["packages"]) for image in images.values()),
        "images": counted,
        "licence_names": len(counts.keys() - {NOT_TOLD}),
        "licences": dict(
            sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_LICENCES]
        ),
    }
