"""Files that services of the application get from the inventory or the controller (no I/O).

Each is a file of the release, which its user alone may read, and is mounted into the containers of
its service. Their contents are secrets: no model, no message and no compose file has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .option_values import entries, normal_path
from .service_options import Service, app_services
from .validators import as_mapping, whole

USER_ID = re.compile(r"([0-9]{1,10})(?::.*)?\Z", re.DOTALL)


@dataclass(frozen=True)
class ServiceFile:
    """A file of a service.

    Attributes:
        place: of its entry, for messages.
        target: path in the container.
        release_path: path in the folder of the release.
        content: of the inventory; None where `source` has it.
        source: path on the controller.
        owner: user id of the service; None where only the image of the application tells it.
    """

    place: str
    target: str
    release_path: str
    content: str | None
    source: str
    owner: int | None


def service_files(values: Mapping[str, Any]) -> list[ServiceFile]:
    """Return the files of all services of checked variables.

    Args:
        values: with ``stack_app`` and ``celery_workers``.
    """
    app = as_mapping(values.get("stack_app"))
    return [
        ServiceFile(
            place=f"{service.where}.files[{index}]",
            target=normal_path(each.get("path")),
            release_path=release_path(service.name, index),
            content=each.get("content"),
            source=str(each.get("source") or ""),
            owner=owner_of(service, app),
        )
        for service in app_services(values)
        for index, each in entries(service.options.get("files"))
    ]


def release_path(service: str, index: int) -> str:
    """Return the path of a file in the folder of a release."""
    return f"files/{service}/{index}"


def owner_of(service: Service, app: Mapping[str, Any]) -> int | None:
    """Return the user id of a service; None where only an image tells it."""
    user = service.options.get("user") or (app.get("user") if service.name != "frontend" else "")
    match = USER_ID.match(str(user or ""))
    return whole(str(int(match[1]))) if match else None


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield services with files whose user id nobody can tell, with the remedy."""
    app = as_mapping(values.get("stack_app"))
    for service in app_services(values):
        user = service.options.get("user")
        # The application is asked in its image as stack_app.user, or as the image's own user.
        is_asked = service.name != "frontend" and user in (None, "", app.get("user"))
        has_files = bool(entries(service.options.get("files")))
        if has_files and not is_asked and owner_of(service, app) is None:
            yield (
                f"{service.where}.files must belong to the user of the service: set"
                f" {service.where}.user to its number, such as '10001'."
            )
