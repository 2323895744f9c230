"""Give the states of M(release) what all of them need: the store, the journal, Docker."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..journal import Journal, NotOwnerError, note, seconds_per_step
from ..ledger.end import end
from .retention import prune
from .store import ReleaseError, ReleaseStore

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule


class ReleaseContext:
    """A call of the module; a subclass has the states of one kind."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.store = ReleaseStore(Path(module.params["root"]))

    def note(self, step: str, **facts: Any) -> None:
        """Write the step into the journal, before anything of it is done."""
        try:
            note(self.params, step, **facts)
        except NotOwnerError as error:
            self.module.fail_json(msg=str(error))

    def docker(self, *arguments: str) -> tuple[int, str, str]:
        """Return exit code, output and errors of a Docker command."""
        answer: tuple[int, str, str] = self.module.run_command(
            [self.params["docker_cli"], *arguments]
        )
        return answer

    def annotate(self, release: str, facts: dict[str, Any]) -> None:
        """Add to a manifest, unless in check mode."""
        if not self.module.check_mode:
            self.store.annotate(release, facts)

    def seconds(self) -> dict[str, float]:
        """Return seconds per step of this run so far; empty without one."""
        run = self.params["run"]
        if not run:
            return {}
        return seconds_per_step(Journal(run["root"], run["id"]).entries(), run["id"], time.time())

    def counted(self) -> dict[str, Any]:
        """End the ledger; return what was counted, empty without one."""
        ledger = self.params["ledger"]
        if not ledger or self.module.check_mode:
            return {}
        return {"counted": end(self.docker, ledger["name"], ledger["wait"])}

    def prune(self) -> dict[str, Any]:
        """Remove old releases, their image names, and untagged images of this stack."""
        if not self.params["keep"]:
            return {"changed": False, "pruned": [], "freed_bytes": 0}
        check_mode, stack = self.module.check_mode, self.params["stack"]
        return prune(self.store, stack, self.params["keep"], self.docker, check_mode)

    def linked(self, link: str) -> dict[str, Any]:
        """Return the manifest of the release that a symlink names; empty when there is none."""
        try:
            return self.store.linked_manifest(link)
        except ReleaseError as error:
            self.module.fail_json(msg=str(error))
        raise AssertionError  # fail_json has ended the process


def describe(manifest: dict[str, Any], staged: bool) -> dict[str, Any]:
    """Return what callers get to know of a release."""
    if not manifest:
        return {}
    names = ("id", "path", "fingerprint", "images", "created")
    return {**{name: manifest[name] for name in names}, "staged": staged}
