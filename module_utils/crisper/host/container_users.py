"""Users of containers beside the accounts of their host (no I/O). Python 3.8+.

To the kernel a process of a container is one of the host. An account with the same user id may send
it signals; with the same group id besides, it may read the process's environment and files in
/proc, where Qdrant and the application have their secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

# Shells of accounts that nobody logs in with.
NO_LOGIN = re.compile(r".*/(nologin|false|true|sync|shutdown|halt|git-shell)\Z")
# Neither Debian's adduser nor systemd gives ids of 60706 to 61183 to anybody (UIDS-GIDS of
# systemd), and they fit into a user namespace of the engine.
LOWEST, HIGHEST = 60901, 60999


@dataclass(frozen=True)
class Account:
    """An account of the host."""

    name: str
    uid: int
    gid: int
    shell: str

    @property
    def logs_in(self) -> bool:
        """Return whether somebody can log in with it; an empty shell is /bin/sh."""
        return not NO_LOGIN.match(self.shell)


@dataclass(frozen=True)
class Process:
    """The first process of a container; without capabilities no other one has another user."""

    service: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Shared:
    """Containers and an account of the host with the same user id."""

    account: str
    uid: int
    services: tuple[str, ...]
    readable: tuple[str, ...]  # those whose group is the account's too
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as results show it."""
        return asdict(self)


def find_shared(processes: Iterable[Process], accounts: Mapping[int, Account]) -> list[Shared]:
    """Return the accounts that somebody logs in with and whose user id a container has.

    Args:
        processes: the containers' first ones.
        accounts: of the host, by user id.
    """
    by_uid: dict[int, list[Process]] = {}
    for process in processes:
        if process.uid in accounts and accounts[process.uid].logs_in:
            by_uid.setdefault(process.uid, []).append(process)
    return [_shared(accounts[uid], found) for uid, found in sorted(by_uid.items())]


def _shared(account: Account, processes: list[Process]) -> Shared:
    services = tuple(sorted({each.service for each in processes}))
    readable = tuple(sorted({each.service for each in processes if each.gid == account.gid}))
    may = "may send signals to their processes"
    if readable:
        which = "their" if readable == services else f"those of {', '.join(readable)},"
        may += f", and read in /proc {which} environment and files"
    return Shared(
        account.name,
        account.uid,
        services,
        readable,
        f"{', '.join(services)} run as user id {account.uid}, which is the account"
        f" '{account.name}' of this host: who logs in with it {may}. {_remedy(account, services)}",
    )


def _remedy(account: Account, services: tuple[str, ...]) -> str:
    ours = [name for name in services if name == "backend" or name.startswith("celery-")]
    # A fixed number of the image.
    images = [name for name in services if name not in ours]
    if account.uid == 0:
        return (
            "Give the images of the application a USER other than root, or set stack_app.user"
            " (docs/PRODUCTION_DOCKER.md)."
        )
    remedies = []
    if ours:
        remedies.append(
            "give the application's image as its USER a number above 10000 that no account has, or"
            f" set stack_app.user to '{account.uid}:{HIGHEST}', which leaves its files as they are"
            " and ends the reading"
        )
    if images:
        remedies.append(
            f"give the account another user id (usermod --uid), as the image of"
            f" {', '.join(images)} has a fixed one"
        )
    text = "; ".join(remedies)
    return f"{text[0].upper()}{text[1:]} (docs/PRODUCTION_DOCKER.md)."
