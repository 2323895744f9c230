"""ansible-playbook in a process that is forked from one which has imported Ansible already.

The server of these processes imports preload.py. It begins with the environment that `start` was
given first, for Ansible reads its settings when it is imported.
"""

from __future__ import annotations

import multiprocessing.process
import os
import sys
import threading
import warnings
from collections.abc import Mapping
from multiprocessing import forkserver, get_context
from pathlib import Path

PRELOAD = "preload"
SERVER = get_context("forkserver")
STARTED = threading.Lock()


def _start_server(settings: Mapping[str, str]) -> None:
    """Start the server of processes with these settings; the first call of a process does it."""
    with STARTED:
        os.environ.update(settings)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # where the server finds that file
        try:
            SERVER.set_forkserver_preload([PRELOAD])
            forkserver.ensure_running()
        finally:
            del os.environ["PYTHONPATH"]
            if before is not None:
                os.environ["PYTHONPATH"] = before


def start(
    arguments: list[str], settings: Mapping[str, str], output: Path
) -> multiprocessing.process.BaseProcess:
    """Start ansible-playbook with its output in a file; the leader of a session of its own."""
    _start_server(settings)
    process = SERVER.Process(target=_run, args=(arguments, str(output)))
    process.start()
    return process


def _run(arguments: list[str], output: str) -> None:
    os.setsid()
    # The server passes over what cannot be imported.
    assert PRELOAD in sys.modules, f"{PRELOAD}.py was not imported"
    warnings.filterwarnings("ignore", "AnsibleCollectionFinder has already been configured")
    # As if nobody had started it: the lookup crisper_run takes the parent for Ansible.
    multiprocessing.process._parent_process = None
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(Path(__file__).resolve().parents[3])
    import inline_worker
    from ansible import constants
    from ansible.cli.playbook import PlaybookCLI

    # Made when Ansible was imported; two runs in one folder would read each other's half files.
    constants.DEFAULT_LOCAL_TMP = f"{constants.DEFAULT_LOCAL_TMP}-{os.getpid()}"
    os.makedirs(constants.DEFAULT_LOCAL_TMP, 0o700)

    inline_worker.install()
    sys.argv = ["ansible-playbook", *arguments]
    PlaybookCLI.cli_executor(sys.argv)
