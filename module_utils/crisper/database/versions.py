"""Versions of a database image and of the data in its volume, read and compared.

The functions that ask the engine take `call`: arguments of the Docker client -> ``(exit code,
output, errors)``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Call = Callable[..., "tuple[int, str, str]"]
NUMBERS = re.compile(r"\d+(?:\.\d+)*")
TAG = re.compile(r"[^/]*?:(?:v)?(\d+(?:\.\d+)*)(?:[-.].*)?$")
# First minor versions whose psql runs no command (`\!`) that a dump brings (CVE-2025-8714, -8715).
RESTRICTED = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}


@dataclass(frozen=True)
class Database:
    """Places where a database's data and its image tell their version."""

    label: str
    files: tuple[str, ...]  # in the volume, the newest cluster last
    variables: tuple[str, ...]  # of the image's environment
    digits: int  # how many numbers of a version decide whether the data can be opened


# Official images since PostgreSQL 18 have the volume one folder higher, and the data of each major
# version in a folder of its own in it; /var/lib/postgresql/data is a link there.
FIRST_WITH_FOLDERS = 18
DATABASES = {
    "postgres": Database(
        "PostgreSQL",
        ("PG_VERSION", "data/PG_VERSION", "*/docker/PG_VERSION"),
        ("PG_MAJOR", "PG_VERSION"),
        1,
    ),
    "mariadb": Database(
        "MariaDB",
        ("mysql_upgrade_info", "mariadb_upgrade_info"),
        ("MARIADB_VERSION",),
        2,
    ),
}


@dataclass(frozen=True)
class Misfit:
    """Data that the wanted image cannot open, and what to do."""

    service: str
    message: str
    remedy: str


def loose_psql(version: str) -> str:
    """Return why a dump of somebody else must not be fed to an image's psql; empty when it may.

    Args:
        version: that of PostgreSQL, which psql comes with.
    """
    major, minor, *_ = (*parse_version(version), 0, 0)
    if minor >= RESTRICTED.get(major, 0):
        return ""
    return (
        f"psql {major}.{minor} of image_refs.postgres runs programs that a dump names"
        f" (CVE-2025-8714): take an image of {major}.{RESTRICTED[major]} or newer"
    )


def parse_version(text: str) -> tuple[int, ...]:
    """Return the first dotted number; of Debian's ``1:11.8.2+maria`` the one behind the colon."""
    match = NUMBERS.search(text.rpartition(":")[2])
    return tuple(int(piece) for piece in match[0].split(".")) if match else ()


def tag_version(reference: str) -> tuple[int, ...]:
    """Return the version in an image reference's tag; empty when there is none."""
    match = TAG.search(reference.partition("@")[0].rpartition("/")[2])
    return parse_version(match[1]) if match else ()


def image_version(service: str, environment: Iterable[str], reference: str) -> tuple[int, ...]:
    """Return the version of an image: its own word when it is known, else its tag's.

    Args:
        environment: ``NAME=value`` of the image; nothing when it is not on the host.
    """
    values = dict(item.partition("=")[::2] for item in environment)
    for name in DATABASES[service].variables:
        if found := parse_version(values.get(name, "")):
            return found
    return tag_version(reference)


def text_of(version: Iterable[int]) -> str:
    """Return a version as people write it."""
    return ".".join(map(str, version))


def compare(
    service: str, data: tuple[int, ...], wanted: tuple[int, ...], volume: str, reference: str
) -> Misfit | None:
    """Return why an image cannot open the data; None when it can, or when nobody knows.

    Args:
        data: version that wrote the data; empty when there is none.
        wanted: version of the image; empty when it is unknown.
    """
    database = DATABASES[service]
    theirs, ours = data[: database.digits], wanted[: database.digits]
    if not theirs or not ours or len(ours) < len(theirs) or theirs == ours:
        return None
    if service != "postgres" and theirs < ours:
        return None  # it upgrades its files itself
    label = database.label
    message = (
        f"image_refs.{service} ({reference}) is {label} {text_of(ours)}, and the data in the"
        f" volume {volume} is of {label} {text_of(theirs)}, which"
    )
    back = f"set image_refs.{service} back to {label} {text_of(theirs)}"
    if theirs > ours:
        return Misfit(service, f"{message} an older version cannot open", back)
    return Misfit(
        service,
        f"{message} another major version cannot open",
        f"{back}, or upgrade the data: ansible-playbook playbooks/upgrade.yml (docs/UPGRADE.md)",
    )


def postgres_folder(reference: str) -> dict[str, str]:
    """Return where an image of PostgreSQL, by its tag, has its volume and its data.

    Returns:
        ``mount``, where the volume is mounted, and ``data``, the data folder in it. An image whose
        tag begins with no version is taken for one before 18.
    """
    major = next(iter(tag_version(reference)), 0)
    if major < FIRST_WITH_FOLDERS:
        return {"mount": "/var/lib/postgresql/data", "data": "/var/lib/postgresql/data"}
    return {"mount": "/var/lib/postgresql", "data": f"/var/lib/postgresql/{major}/docker"}


def volume_name(project: str, service: str) -> str:
    """Return the name of a data service's volume, as Compose makes it."""
    return f"{project}_{service}"


def data_version(call: Call, service: str, volume: str) -> tuple[int, ...]:
    """Return the version that wrote the data in a volume; empty when there is none to see."""
    code, out, _err = call("volume", "inspect", "--format", "{{json .Mountpoint}}", volume)
    if code != 0:
        return ()
    found: list[tuple[int, ...]] = []
    try:
        folder = Path(json.loads(out))
        for pattern in DATABASES[service].files:
            found += [parse_version(path.read_text()) for path in folder.glob(pattern)]
    except (OSError, ValueError, TypeError):
        pass  # another volume driver, or another host's engine: nobody can look here
    return max(found, default=())


def wanted_version(call: Call, service: str, reference: str, image: str = "") -> tuple[int, ...]:
    """Return the version of an image by reference, or by id when that is known."""
    wanted = image or reference
    code, out, _err = call("image", "inspect", "--format", "{{json .Config.Env}}", wanted)
    environment = json.loads(out) or [] if code == 0 else []
    return image_version(service, environment, reference)


def find_misfits(call: Call, project: str, images: Mapping[str, Mapping[str, str]]) -> list[Misfit]:
    """Return every database whose data the wanted image cannot open.

    Args:
        images: service -> ``{ref, id}``; an empty or missing id takes the reference. Services
            that are no database are left out.
    """
    found = []
    for service in sorted(set(images) & set(DATABASES)):
        volume, reference = volume_name(project, service), images[service].get("ref", "")
        data = data_version(call, service, volume)
        if data:
            wanted = wanted_version(call, service, reference, images[service].get("id", ""))
            found.append(compare(service, data, wanted, volume, reference))
    return [each for each in found if each]
