"""ansible-playbook in a process that is forked from one which has imported Ansible already.

Importing it takes a fifth of a deploy without servers. The server of these processes begins with
the environment that `start` was given first, for Ansible reads its settings when it is imported.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path


@cache
def _server(settings: tuple[tuple[str, str], ...]) -> ForkServerContext:
    os.environ.update(settings)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ansible.cli.playbook", "ansible.executor.playbook_executor"])
    return context


def start(
    arguments: list[str], settings: Mapping[str, str], output: Path
) -> multiprocessing.process.BaseProcess:
    """Start ansible-playbook with its output in a file; the leader of a session of its own."""
    words = (arguments, str(output))
    process = _server(tuple(settings.items())).Process(target=_run, args=words)
    process.start()
    return process


def _run(arguments: list[str], output: str) -> None:
    os.setsid()
    # As if nobody had started it: the lookup crisper_run takes the parent for Ansible.
    multiprocessing.process._parent_process = None
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(Path(__file__).resolve().parents[3])
    from ansible import constants
    from ansible.cli.playbook import PlaybookCLI

    # Made when Ansible was imported; two runs in one folder would read each other's half files.
    constants.DEFAULT_LOCAL_TMP = f"{constants.DEFAULT_LOCAL_TMP}-{os.getpid()}"
    os.makedirs(constants.DEFAULT_LOCAL_TMP, 0o700)

    sys.argv = ["ansible-playbook", *arguments]
    PlaybookCLI.cli_executor(sys.argv)
