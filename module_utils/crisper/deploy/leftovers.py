"""Commands that an interrupted run has left running: migrations, hooks, dumps and restores."""

from __future__ import annotations

from collections.abc import Iterable

from ..database.interrupted import collect, end_sessions
from ..database.migration_plan import REPLACING
from ..docker.exec import Docker
from ..docker.one_off import CommandError, Commands
from ..journal import Journal, NotOwnerError
from .acquire import RefusedError


def collect_leftovers(
    journal: Journal, docker_cli: str, project: str, steps: Iterable[str]
) -> list[str]:
    """Wait for migrations and hooks of a killed deploy; record and return their outcome.

    Before anything is judged: what they did may stand against a rollback. A restore is ended: it
    would replace the database under what comes next.

    Args:
        journal: of the stack, for the run that has the lock.
        docker_cli: the Docker client.
        project: Compose project.
        steps: of the run that was interrupted.

    Returns:
        A sentence for each of them.

    Raises:
        RefusedError: what became of one cannot be found out, or this run has lost the lock.
    """
    commands = Commands(docker_cli, project, journal.root)
    try:
        if REPLACING.intersection(steps):
            end_sessions(project, Docker(docker_cli))
        return collect(commands, Docker(docker_cli), journal.note)
    except (CommandError, NotOwnerError) as error:
        raise RefusedError(f"{error} Nothing was deployed.") from error
