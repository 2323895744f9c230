"""Payloads of modules, stored from one deploy to the next."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_payloads
type: aggregate
short_description: Keeps what Ansible packs for each module from one run to the next
description:
  - Ansible packs every module with all that it imports, anew in each run. That takes 0.1 to 0.3 s
    of processor time for each, and 1 to 2 s of a changed deploy (docs/BENCHMARKS.md).
  - Set E(ANSIBLE_CALLBACKS_ENABLED) to C(crisper_stages) to go without it.
  - What was packed is kept in C(crisper_payloads) below Ansible's home, in a folder named for all
    that went into it (this repository's modules and their code, Ansible and Python), and laid
    before Ansible when the next run begins.
  - Only for this repository's modules and Ansible's own. Where anything about it fails, Ansible
    packs as ever.
"""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import ansible
from ansible import constants
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as ansible_version

OWN = ("ansible.legacy.", "ansible.modules.")  # which names Ansible gives to the modules meant
KEPT = 3  # as many versions of the repository
# Code that modules import: of this repository and of the collections beside it.
UTILS = [str(Path(__file__).resolve().parents[2] / "module_utils")]


def fingerprint(folders: list[str]) -> str:
    """Digest everything that goes into a payload: `folders` of modules and their code."""
    digest = hashlib.sha256(f"{ansible_version} {ansible.__file__} {sys.version}".encode())
    released = Path(ansible.__file__).with_name("release.py")
    digest.update(str(released.stat().st_mtime_ns).encode())
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:20]


def trusted(folder: Path) -> bool:
    """Return whether only this user may write there: payloads are code that Ansible unpickles."""
    status = folder.lstat()
    return folder.is_dir() and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def take(store: Path, used: Path) -> int:
    """Copy stored payloads into the folder that Ansible looks in; return how many."""
    if not store.is_dir() or not (trusted(store) and trusted(store.parent)):
        return 0
    used.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = [path for path in store.iterdir() if path.name.startswith(OWN)]
    for path in names:
        shutil.copyfile(path, used / path.name)
    os.utime(store)
    return len(names)


def keep(used: Path, store: Path) -> int:
    """Store what Ansible packed in this run; return how many. Only the newest versions stay."""
    store.mkdir(mode=0o700, parents=True, exist_ok=True)
    store.parent.chmod(0o700)
    if not (trusted(store) and trusted(store.parent)):
        return 0
    new = [
        path
        for path in used.iterdir()
        if path.name.startswith(OWN) and path.suffix != ".lock" and not (store / path.name).exists()
    ]
    for path in new:
        # Another deploy may do the same now: a payload appears whole or not at all.
        handle, half = tempfile.mkstemp(dir=store, prefix=".half-")
        os.close(handle)
        shutil.copyfile(path, half)
        os.replace(half, store / path.name)
    versions = sorted(store.parent.iterdir(), key=lambda path: path.stat().st_mtime)
    for old in versions[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return len(new)


class CallbackModule(CallbackBase):
    """Takes stored payloads at the start of a run and stores new ones at its end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "crisper_payloads"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        home = Path(os.path.expanduser(constants.config.get_config_value("ANSIBLE_HOME")))
        self.store = home / "crisper_payloads" / "none"
        self.used = Path(constants.DEFAULT_LOCAL_TMP) / "ansiballz_cache"

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Take stored payloads before any module is packed."""
        with contextlib.suppress(OSError):
            folders = [*constants.DEFAULT_MODULE_PATH, *UTILS]
            self.store = self.store.with_name(fingerprint(folders))
            take(self.store, self.used)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Store new payloads after the last module has been packed."""
        with contextlib.suppress(OSError):
            if self.store.name != "none" and self.used.is_dir():
                keep(self.used, self.store)
