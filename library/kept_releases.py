#!/usr/bin/python
"""List, check, put back and prune the releases kept on a server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kept_releases
short_description: List, check, put back and prune the releases kept on a server
description:
  - Works on what M(release) wrote. Needs no network - a kept release is its folder and its
    images, both on the server.
extends_documentation_fragment: [crisper, crisper.ledger, crisper.docker, crisper.root]
options:
  stack:
    description: Name of the stack.
    type: str
    required: true
  state:
    description:
      - C(listed) tells what is kept. C(images) gives the images of the release their names again,
        by id. C(current) makes it the current one.
      - C(abandoned) takes the mark off a staged release that failed and writes O(reason) into
        its manifest. C(annotated) adds O(facts) to a manifest (of O(id), else the staged one).
        C(pruned) removes all but O(keep) proved releases, with their images and backups.
    type: str
    choices: [listed, images, current, abandoned, annotated, pruned]
    default: listed
  id:
    description: The release; when absent, the newest proved one before the current.
    type: str
  reason:
    description: Why a release is abandoned.
    type: str
    default: ""
  facts:
    description: What C(annotated) adds to the manifest.
    type: dict
    default: {}
  ends:
    description: With C(current), whether that is the end of O(run) - the journal says that it is
      done, and the lock is given back.
    type: bool
    default: false
  keep:
    description: How many proved releases stay.
    type: int
    default: 5
attributes:
  check_mode:
    description: Changes nothing in check mode and tells whether it would.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: The release is the current one
  kept_releases:
    root: /opt/crisper
    stack: crisper
    state: current
    id: 20261119t080000z-99887766
"""

RETURN = r"""
releases:
  description: What is kept, newest first.
  returned: always
  type: list
  elements: dict
  sample:
    - id: 20261120t221500z-1a2b3c4d
      created: "2026-11-20T22:15:00+00:00"
      operator: ops
      revision: 1f2e3d4
      verified: true
      failed: ""
      current: true
release:
  description:
    - The release in question - its C(id), C(path), C(images), C(model), C(tasks) that it registers,
      and C(irreversible), the releases after it whose migrations cannot be undone, each with its
      C(backup); C(same), whether C(nginx) and C(data) are those of the current release.
  returned: in states C(images) and C(current)
  type: dict
  sample: {id: 20261119t080000z-99887766, path: /opt/crisper/releases/20261119t080000z-99887766}
seconds:
  description: Seconds per step of this run so far.
  returned: in state C(current), when O(run) is given
  type: dict
  sample: {begin: 4.1, start: 6.5}
counted:
  description: What was counted, as M(deploy_ledger) tells it.
  returned: in state C(current), when O(ledger) is given
  type: dict
  sample: {tasks: {accepted: 42, lost: 0}, requests: {probed: 88, failed: 0}, error: ""}
ended:
  description: Whether the end was written down, see O(ends).
  returned: in state C(current)
  type: bool
  sample: true
pruned:
  description: Ids that were removed.
  returned: in state C(pruned)
  type: list
  elements: str
  sample: [20261101t080000z-01234567]
freed_bytes:
  description: Bytes of images and layers that were freed.
  returned: in state C(pruned)
  type: int
  sample: 412000000
"""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.images.identity import identity
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    Journal,
    NotOwnerError,
    note,
    seconds_per_step,
)
from ansible_collections.crisper.stack.plugins.module_utils.ledger.end import SPEC as LEDGER_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.ledger.end import end
from ansible_collections.crisper.stack.plugins.module_utils.lock import LockedError
from ansible_collections.crisper.stack.plugins.module_utils.output import quote_last_lines
from ansible_collections.crisper.stack.plugins.module_utils.release.retention import annotate, prune
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback_check import (
    Kept,
    image_names,
    known_images,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "stack": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["listed", "images", "current", "abandoned", "annotated", "pruned"],
        "default": "listed",
    },
    "id": {"type": "str"},
    "reason": {"type": "str", "default": ""},
    "facts": {"type": "dict", "default": {}},
    "ends": {"type": "bool", "default": False},
    "keep": {"type": "int", "default": 5},
    "ledger": LEDGER_SPEC,
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


class Releases:
    """What the module does with the kept releases of one stack."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.root = Path(module.params["root"])
        self.kept = Kept(self.root)
        self.manifests = self.kept.manifests

    def docker(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a Docker command."""
        return self.module.run_command([self.params["docker_cli"], *arguments])

    def chosen(self) -> dict[str, Any]:
        """The release in question; fails with the list of kept ones when there is none."""
        release, problem = self.kept.release(self.params["id"] or "")
        if problem:
            self.module.fail_json(msg=problem)
        return release

    def images(self) -> dict[str, Any]:
        """Give the release's images their names again."""
        release, changed = self.chosen(), False
        names = image_names(self.params["stack"], release)
        ids = [image["id"] for _, image in names]
        known = known_images(self.docker, [*ids, *(reference for reference, _ in names)])
        for reference, image in names:
            wanted = {image["id"], identity(image)}
            if reference in known and wanted & set(known[reference]):
                continue
            changed = True
            if self.module.check_mode:
                continue
            # Under its id, or the id that it has in this image store.
            source = next((each[0] for each in known.values() if wanted & set(each)), image["id"])
            code, _, err = self.docker("image", "tag", source, reference)
            if code != 0:
                self.module.fail_json(
                    msg=f"{reference} cannot be named again: {quote_last_lines(err, 5)}"
                )
        return {"changed": changed, "release": release}

    def make_current(self) -> dict[str, Any]:
        """Point `current` at the release and take the mark off a staged one."""
        release = self.chosen()
        changed = release["id"] != self.kept.current
        if changed and not self.module.check_mode:
            try:
                note(self.params, "promote", release=release["id"])
            except NotOwnerError as error:
                self.module.fail_json(msg=str(error))
            draft = self.root / f".current.{os.getpid()}"
            draft.symlink_to(f"releases/{release['id']}")
            draft.replace(self.root / "current")
        if self.kept.staged not in ("", release["id"]):
            self.params["reason"] = f"given up: release {release['id']} was put back"
            changed |= self.abandon()["changed"]
        run, ledger = self.params["run"], self.params["ledger"]
        told = {"changed": changed, "release": release, "seconds": {}, "ended": False}
        if ledger and not self.module.check_mode:
            told["counted"] = end(self.docker, ledger["name"], ledger["wait"])
        if run:
            journal = Journal(run["root"], run["id"])
            told["seconds"] = seconds_per_step(journal.entries(), journal.run, time.time())
            if self.params["ends"] and not self.module.check_mode:
                # The lock is given back once more at the end of the run.
                with contextlib.suppress(LockedError):
                    told["ended"] = journal.end("done")
        return told

    def abandon(self) -> dict[str, Any]:
        """The staged release failed: it is not to be resumed, and its manifest says why."""
        if not self.kept.staged:
            return {"changed": False}
        if not self.module.check_mode:
            try:
                note(self.params, "abandon", release=self.kept.staged)
            except NotOwnerError as error:
                self.module.fail_json(msg=str(error))
            if self.kept.staged in self.manifests:
                failed = {"failed": self.params["reason"] or "failed"}
                annotate(self.root, self.kept.staged, failed)
            (self.root / "next").unlink()
        return {"changed": True}

    def annotated(self) -> dict[str, Any]:
        """Add facts to the manifest of a release."""
        wanted = self.params["id"] or self.kept.staged or self.kept.current
        known = self.manifests.get(wanted, {})
        facts = self.params["facts"]
        changed = bool(known) and any(known.get(name) != value for name, value in facts.items())
        if changed and not self.module.check_mode:
            annotate(self.root, wanted, facts)
        return {"changed": changed}

    def prune(self) -> dict[str, Any]:
        """Remove old releases, their image names, and untagged images of this stack."""
        params = self.params
        return prune(
            self.root, params["stack"], params["keep"], self.docker, self.module.check_mode
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    kept = Releases(module)
    actions = {
        "listed": lambda: {"changed": False},
        "images": kept.images,
        "current": kept.make_current,
        "abandoned": kept.abandon,
        "annotated": kept.annotated,
        "pruned": kept.prune,
    }
    module.exit_json(releases=kept.kept.releases, **actions[module.params["state"]]())


if __name__ == "__main__":
    main()
