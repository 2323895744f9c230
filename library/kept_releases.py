#!/usr/bin/python
"""List, check, put back and prune the releases kept on a server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kept_releases
short_description: List, check, put back and prune the releases kept on a server
description:
  - Works on what M(release) wrote. Needs no network - a kept release is its folder and its
    images, both on the server.
extends_documentation_fragment: [crisper, crisper.ledger]
options:
  root:
    description: Folder of the stack on the server.
    type: path
    required: true
  stack:
    description: Name of the stack.
    type: str
    required: true
  state:
    description:
      - C(listed) tells what is kept. C(fit) checks that a release can be put back (folder,
        checksums, images) and fails with the reason when it cannot. C(images) gives the images
        of the release their names again, by id. C(current) makes it the current one.
      - C(abandoned) takes the mark off a staged release that failed and writes O(reason) into
        its manifest. C(annotated) adds O(facts) to a manifest (of O(id), else the staged one).
        C(pruned) removes all but O(keep) proved releases, with their images and backups.
    type: str
    choices: [listed, fit, images, current, abandoned, annotated, pruned]
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
  restore_database:
    description:
      - Whether C(fit) accepts a release from before an irreversible migration, because the
        database is put back too.
    type: bool
    default: false
  keep:
    description: How many proved releases stay.
    type: int
    default: 5
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
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
- name: The release before the current one can be put back
  kept_releases:
    root: /opt/crisper
    stack: crisper
    state: fit
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
      C(backup); C(same), whether C(nginx) and C(data) are those of the current release; in state
      C(fit), C(named), whether its images have their names.
  returned: in states C(fit), C(images) and C(current)
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

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.crisper_journal import (
    RUN_SPEC,
    Journal,
    NotOwnerError,
    note,
    seconds_per_step,
)
from ansible.module_utils.crisper_kept import linked, manifests, prune
from ansible.module_utils.crisper_ledger_end import SPEC as LEDGER_SPEC
from ansible.module_utils.crisper_ledger_end import end
from ansible.module_utils.crisper_release import (
    MANIFEST,
    irreversible_after,
    listing,
    previous,
    same_parts,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "stack": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["listed", "fit", "images", "current", "abandoned", "annotated", "pruned"],
        "default": "listed",
    },
    "id": {"type": "str"},
    "reason": {"type": "str", "default": ""},
    "facts": {"type": "dict", "default": {}},
    "restore_database": {"type": "bool", "default": False},
    "keep": {"type": "int", "default": 5},
    "ledger": LEDGER_SPEC,
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


class Kept:
    """The kept releases of one stack."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.root = Path(module.params["root"])
        self.current = linked(self.root, "current")
        self.staged = linked(self.root, "next")
        self.manifests = manifests(self.root)
        self.releases = listing(self.manifests.values(), self.current)

    def docker(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a Docker command."""
        return self.module.run_command([self.params["docker_cli"], *arguments])

    def kept_names(self) -> str:
        """The proved releases, for error messages."""
        names = [r["id"] for r in self.releases if r["verified"] and not r["current"]]
        return ", ".join(names) or "none"

    def chosen(self) -> dict[str, Any]:
        """The release in question; fails with the list of kept ones when there is none."""
        wanted = self.params["id"] or previous(self.releases, self.current)
        if not wanted:
            self.module.fail_json(
                msg=f"There is no proved release before {self.current or 'the first deploy'}"
                f" to go back to. Kept: {self.kept_names()}."
            )
        if wanted not in self.manifests:
            self.module.fail_json(
                msg=f"Release {wanted} is not kept on this server. Kept: {self.kept_names()}."
                " Choose one with -e release=<id>."
            )
        folder = self.root / "releases" / wanted
        manifest = self.manifests[wanted]
        serving = self.manifests.get(self.current, {})
        data = manifest.get("model", {}).get("data_services", [])
        return {
            "id": wanted,
            "path": str(folder),
            "images": manifest.get("images", {}),
            "model": manifest.get("model", {}),
            "tasks": (manifest.get("verified") or {}).get("tasks", []),
            "irreversible": irreversible_after(self.manifests.values(), wanted),
            "same": same_parts(manifest, serving, data),
        }

    def fit(self) -> dict[str, Any]:
        """The release, when nothing of it is missing or altered."""
        release = self.chosen()
        manifest, folder = self.manifests[release["id"]], Path(release["path"])
        problems = []
        for name, expected in manifest.get("checksums", {}).items():
            try:
                actual = hashlib.sha256((folder / name).read_bytes()).hexdigest()
            except OSError:
                problems.append(f"{name} is missing")
                continue
            if actual != expected:
                problems.append(f"{name} was altered")
        names = self.names(release)
        wanted = [image["id"] for image in release["images"].values()]
        known = self.ids([*wanted, *(reference for reference, _ in names)])
        for name, image in release["images"].items():
            if image["id"] not in known:
                problems.append(f"the image of {name} ({image['id'][:19]}) is gone")
        blocking = release["irreversible"]
        if blocking and not self.params["restore_database"]:
            problems.append(
                f"the database has an irreversible migration since (release {blocking[0]['id']})."
                " -e restore_database=true puts back the backup taken before it,"
                f" {blocking[0]['backup'] or 'which is missing'}, and loses what was written since"
            )
        elif blocking and not Path(blocking[0]["backup"]).is_file():
            problems.append(
                f"the backup before the irreversible migration of release {blocking[0]['id']}"
                f" is gone ({blocking[0]['backup'] or 'none was taken'})"
            )
        if problems:
            self.module.fail_json(
                msg=f"Release {release['id']} cannot be put back: {'; '.join(problems)}."
                f" Kept: {self.kept_names()}. Choose another with -e release=<id>.",
                releases=self.releases,
            )
        named = all(known.get(reference) == identity for reference, identity in names)
        return {"changed": False, "release": {**release, "named": named}}

    def ids(self, references: list[str]) -> dict[str, str]:
        """Ids of those images that are here, by what they were asked for."""
        form = "{{.Id}}{{range .RepoTags}} {{.}}{{end}}"
        _, out, _ = self.docker("image", "inspect", "--format", form, *references)
        found = {}
        for line in out.splitlines():
            identity, *tags = line.split()
            found.update(dict.fromkeys((identity, *tags), identity))
        # The engine tells tags without what Docker takes for granted.
        short = {
            name: name.removeprefix("docker.io/").removeprefix("library/") for name in references
        }
        return {name: found[short[name]] for name in references if short[name] in found}

    def names(self, release: dict[str, Any]) -> list[tuple[str, str]]:
        """Name and id of every image, as the compose file of the release has them."""
        found = []
        for name, image in release["images"].items():
            own = f"{self.params['stack']}/{name}:{release['id']}"
            reference = own if name in ("backend", "frontend") else image["ref"]
            found.append((reference, image["id"]))
        return found

    def images(self) -> dict[str, Any]:
        """Give the release's images their names again."""
        release, changed = self.chosen(), False
        for reference, identity in self.names(release):
            code, out, _ = self.docker("image", "inspect", "--format", "{{.Id}}", reference)
            if code == 0 and out.strip() == identity:
                continue
            changed = True
            if self.module.check_mode:
                continue
            code, _, err = self.docker("image", "tag", identity, reference)
            if code != 0:
                self.module.fail_json(msg=f"{reference} cannot be named again: {err.strip()}")
        return {"changed": changed, "release": release}

    def make_current(self) -> dict[str, Any]:
        """Point `current` at the release and take the mark off a staged one."""
        release = self.chosen()
        changed = release["id"] != self.current
        if changed and not self.module.check_mode:
            try:
                note(self.params, "promote", release=release["id"])
            except NotOwnerError as error:
                self.module.fail_json(msg=str(error))
            draft = self.root / f".current.{os.getpid()}"
            draft.symlink_to(f"releases/{release['id']}")
            draft.replace(self.root / "current")
        run, ledger = self.params["run"], self.params["ledger"]
        counted = {}
        if ledger and not self.module.check_mode:
            counted["counted"] = end(self.docker, ledger["name"], ledger["wait"])
        entries = Journal(run["root"], run["id"]).entries() if run else []
        seconds = seconds_per_step(entries, run["id"], time.time()) if run else {}
        return {"changed": changed, "release": release, "seconds": seconds, **counted}

    def abandon(self) -> dict[str, Any]:
        """The staged release failed: it is not to be resumed, and its manifest says why."""
        if not self.staged:
            return {"changed": False}
        if not self.module.check_mode:
            if self.staged in self.manifests:
                self.annotate(self.staged, {"failed": self.params["reason"] or "failed"})
            (self.root / "next").unlink()
        return {"changed": True}

    def annotated(self) -> dict[str, Any]:
        """Add facts to the manifest of a release."""
        wanted = self.params["id"] or self.staged or self.current
        known = self.manifests.get(wanted, {})
        facts = self.params["facts"]
        changed = bool(known) and any(known.get(name) != value for name, value in facts.items())
        if changed and not self.module.check_mode:
            self.annotate(wanted, facts)
        return {"changed": changed}

    def annotate(self, release: str, facts: dict[str, Any]) -> None:
        """Add to a manifest, atomically."""
        path = self.root / "releases" / release / MANIFEST
        draft = path.with_name(f".{MANIFEST}")
        text = json.dumps(self.manifests[release] | facts, indent=2, sort_keys=True) + "\n"
        draft.touch(mode=0o600)
        draft.write_text(text)
        draft.replace(path)

    def prune(self) -> dict[str, Any]:
        """Remove old releases, their image names, and untagged images of this stack."""
        params = self.params
        return prune(
            self.root, params["stack"], params["keep"], self.docker, self.module.check_mode
        )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    kept = Kept(module)
    actions = {
        "listed": lambda: {"changed": False},
        "fit": kept.fit,
        "images": kept.images,
        "current": kept.make_current,
        "abandoned": kept.abandon,
        "annotated": kept.annotated,
        "pruned": kept.prune,
    }
    module.exit_json(releases=kept.releases, **actions[module.params["state"]]())


if __name__ == "__main__":
    main()
