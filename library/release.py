#!/usr/bin/python
"""Stage, promote, put back and prune the releases of a stack on the server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stage, promote, put back and prune the releases of a stack
description:
  - A release is one folder C(<root>/releases/<id>) that holds everything that decides what runs.
  - C(staged) writes it whole or not at all, unless C(current) or C(next) already is the same
    release by fingerprint; C(current) promotes the staged one; C(info) only looks.
  - C(put_back) makes a kept release the current one, for a rollback. Needs no network - a kept
    release is its folder and its images, both on the server.
  - The symlink C(next) names a release that was staged and is not yet proved, C(current) the
    one that serves.
extends_documentation_fragment: [crisper, crisper.files, crisper.ledger]
options:
  root:
    description: Folder of the stack on the server, such as V(/opt/crisper).
    type: path
    required: true
  state:
    description:
      - C(staged), C(current) and C(info) are about the release that is deployed.
      - C(listed) tells what is kept. C(tagged) gives the images of release O(id) their names again,
        by id. C(put_back) makes it the current one.
      - C(abandoned) takes the mark off a staged release that failed and writes O(reason) into
        its manifest. C(annotated) adds O(facts) to a manifest (of O(id), else the staged one, else
        the current one). C(pruned) removes all but O(keep) proved releases, with their images and
        backups.
    type: str
    choices: [staged, current, info, listed, tagged, put_back, abandoned, annotated, pruned]
    default: info
  id:
    description:
      - The release, with C(tagged), C(put_back) and C(annotated); when absent, the newest proved
        one before the current.
    type: str
  reason:
    description: Why a release is abandoned.
    type: str
    default: ""
  ends:
    description: With C(put_back), whether that is the end of O(run) - the journal says that it is
      done, and the lock is given back.
    type: bool
    default: false
  stack:
    description: Name of the stack; app images are tagged C(<stack>/<service>:<id>).
    type: str
    required: true
  images:
    description:
      - Name to C({ref, id}) of every image of the release, with C(config), the digest of its
        configuration, where that is not the id (containerd's image store). It decides whether an
        image is another one.
    type: dict
    default: {}
  tags:
    description: Names in O(images) that are tagged C(<stack>/<name>:<id>).
    type: list
    elements: str
    default: []
  facts:
    description:
      - Anything else the manifest should hold (source revision, operator, what was seen).
      - With C(staged), C(migrate) is the migration command; another command is another release.
      - With C(current) and nothing staged, C(inputs) and C(model) of the current one are renewed.
      - With C(annotated), what is added.
    type: dict
    default: {}
  host_inputs:
    description: With C(staged), digest of what the host was made from; the journal gets it.
    type: str
    default: ""
  keep:
    description:
      - With C(current) and C(pruned), how many proved releases stay; the others go. 0 removes none.
    type: int
    default: 0
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
attributes:
  check_mode:
    description: Writes nothing in check mode and tells whether it would.
    support: full
  diff_mode:
    description: Shows the files of the new release against the current one; values of env files
      and secret files are hidden.
    support: full
author: Crisper
"""

EXAMPLES = r"""
- name: The release is staged
  release:
    root: /opt/crisper
    stack: crisper
    state: staged
    files: "{{ release_files }}"
    images: "{{ stack_images }}"
    tags: [backend, frontend]

- name: The staged release is the current one
  release:
    root: /opt/crisper
    stack: crisper
    state: current
    keep: 5
    facts:
      verified: "{{ verify_report }}"

- name: Put an older release back
  release:
    root: /opt/crisper
    stack: crisper
    state: put_back
    id: 20261119t080000z-99887766
"""

RETURN = r"""
release:
  description:
    - The release in question (staged, or current when nothing is staged); empty when none.
    - In states C(tagged) and C(put_back) its C(id), C(path), C(images), C(model), C(tasks) that it
      registers, and C(irreversible), the releases after it whose migrations cannot be undone, each
      with its C(backup); C(same), whether C(nginx) and C(data) are those of the current release.
  returned: in states C(staged), C(current), C(info), C(tagged) and C(put_back)
  type: dict
  sample:
    id: 20261120t221500z-1a2b3c4d
    path: /opt/crisper/releases/20261120t221500z-1a2b3c4d
    fingerprint: 1a2b3c4d5e6f
    staged: true
current:
  description: Id of the release that serves; empty before the first deploy.
  returned: in states C(staged), C(current) and C(info)
  type: str
  sample: 20261119t080000z-99887766
seconds:
  description:
    - Seconds per step of this run so far, which the manifest gets too, as C(deploy.seconds).
  returned: in states C(current) and C(put_back), when O(run) is given
  type: dict
  sample: {begin: 4.1, stage: 2.0, start: 6.5}
counted:
  description:
    - What was counted, as M(deploy_ledger) tells it; the manifest gets the numbers, as
      C(deploy.tasks) and C(deploy.requests).
  returned: in states C(current) and C(put_back), when O(ledger) is given
  type: dict
  sample: {tasks: {accepted: 42, lost: 0}, requests: {probed: 88, failed: 0}, error: ""}
pruned:
  description: Ids of releases that were removed.
  returned: in state C(pruned), and when O(state=current) made a release the current one
  type: list
  elements: str
  sample: [20261101t080000z-01234567]
freed_bytes:
  description: Bytes of images and layers that were freed.
  returned: in state C(pruned), and when O(state=current) made a release the current one
  type: int
  sample: 412000000
releases:
  description: What is kept, newest first.
  returned: in states C(listed), C(tagged), C(put_back), C(abandoned), C(annotated) and C(pruned)
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
ended:
  description: Whether the end was written down, see O(ends).
  returned: in state C(put_back)
  type: bool
  sample: true
resumed:
  description: Whether the release had been staged before, by a deploy that did not finish.
  returned: when O(state=staged)
  type: bool
  sample: false
replaced:
  description: Id of another release that had been staged and is given up.
  returned: when O(state=staged)
  type: str
  sample: ""
images_changed:
  description: Names of images that differ from the current release.
  returned: when O(state=staged)
  type: list
  elements: str
  sample: [backend]
facts_changed:
  description: Names of O(facts) that differ from the current release's.
  returned: when O(state=staged)
  type: list
  elements: str
  sample: [revision]
secrets_changed:
  description: Names of O(secret_files) that differ from the current release's.
  returned: when O(state=staged)
  type: list
  elements: str
  sample: [.env.prod]
env_changed:
  description: Names of environment variables that differ from the current release.
  returned: when O(state=staged)
  type: list
  elements: str
  sample: ["~LOG_LEVEL", "+FEATURE_X"]
"""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.images.identity import identity, is_same
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
from ansible_collections.crisper.stack.plugins.module_utils.proxy.maintenance_pass import place
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import (
    env_names_changed,
    file_options,
    fingerprint,
    redacted_env,
    release_id,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.retention import prune
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback_check import (
    image_names,
    known_images,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.store import (
    ReleaseError,
    ReleaseStore,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import composed

# Of the release that is deployed, and of those that are kept.
DEPLOYED = ["staged", "current", "info"]
STATES = [*DEPLOYED, "listed", "tagged", "put_back", "abandoned", "annotated", "pruned"]
ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "state": {"type": "str", "choices": STATES, "default": "info"},
    "stack": {"type": "str", "required": True},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": file_options("0644", no_log=False),
    },
    "secret_files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": file_options("0600", no_log=True),
    },
    "images": {"type": "dict", "default": {}},
    "tags": {"type": "list", "elements": "str", "default": []},
    "facts": {"type": "dict", "default": {}},
    "host_inputs": {"type": "str", "default": ""},
    "keep": {"type": "int", "default": 0},
    "id": {"type": "str"},
    "reason": {"type": "str", "default": ""},
    "ends": {"type": "bool", "default": False},
    "ledger": LEDGER_SPEC,
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


class Module:
    """What both kinds of states need: the store, the journal and Docker."""

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
        """Exit code, output and errors of a Docker command."""
        return self.module.run_command([self.params["docker_cli"], *arguments])

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


class Deployed(Module):
    """The states of the release that is deployed."""

    def __init__(self, module: AnsibleModule) -> None:
        super().__init__(module)
        self.secret = {item["path"] for item in self.params["secret_files"]}
        self.files = [*self.params["files"], *self.params["secret_files"]]

    def linked(self, link: str) -> dict[str, Any]:
        """Manifest of the release that the symlink `link` names; empty when there is none."""
        try:
            return self.store.linked_manifest(link)
        except ReleaseError as error:
            self.module.fail_json(msg=str(error))
        raise AssertionError  # fail_json has ended the process

    def described(self, manifest: dict[str, Any], staged: bool) -> dict[str, Any]:
        """What callers get to know of a release."""
        if not manifest:
            return {}
        kept = ("id", "path", "fingerprint", "images", "created")
        return {**{key: manifest[key] for key in kept}, "staged": staged}

    def info(self) -> dict[str, Any]:
        """The staged release, or else the current one."""
        current, following = self.linked("current"), self.linked("next")
        return {
            "changed": False,
            "release": self.described(following or current, bool(following)),
            "current": current.get("id", ""),
        }

    def stage(self) -> dict[str, Any]:
        """Write the release folder, unless current or next already is this release."""
        files = self.files
        migrate = self.params["facts"].get("migrate", [])
        print_ = fingerprint(files, self.params["images"], migrate)
        current, following = self.linked("current"), self.linked("next")
        env_before = self.old_text(current, ".env.prod")
        env_after = next((f["content"] for f in files if f["path"] == ".env.prod"), "")
        images, facts = self.params["images"], self.params["facts"]
        result: dict[str, Any] = {
            "changed": False,
            "current": current.get("id", ""),
            "env_changed": env_names_changed(env_before, env_after),
            "images_changed": [
                name
                for name, image in images.items()
                if not is_same(current.get("images", {}).get(name, {}), image)
            ],
            "facts_changed": [name for name in facts if current.get(name) != facts[name]],
            "secrets_changed": [
                item["path"]
                for item in self.params["secret_files"]
                if self.old_text(current, item["path"]) != item["content"]
            ],
            "resumed": False,
            "replaced": "",
        }
        same_as_current = current.get("fingerprint") == print_
        if following and (same_as_current or following.get("fingerprint") != print_):
            # An earlier deploy staged something else and never finished: it is not wanted now.
            result.update(changed=True, replaced=following["id"])
            if not self.module.check_mode:
                self.store.unstage()
            following = {}
        if same_as_current:
            if not self.module.check_mode:
                result["changed"] = self.name_again(current) or result["changed"]
            return {**result, "release": self.described(current, False)}
        if following:
            if not self.module.check_mode:
                self.note("stage", release=following["id"], host=self.params["host_inputs"])
            return {**result, "resumed": True, "release": self.described(following, True)}
        name = release_id(datetime.now(timezone.utc), print_)
        folder = self.store.folder / name
        manifest = {
            "id": name,
            "fingerprint": print_,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "images": self.params["images"],
            **self.params["facts"],
        }
        result.update(changed=True, diff=self.diff(current))
        if not self.module.check_mode:
            try:
                self.note("stage", release=name, host=self.params["host_inputs"])
                manifest = self.store.add(manifest, self.files, self.accept(name))
                self.store.link("next", name)
            except OSError as error:
                self.store.take_back(name)
                self.module.fail_json(
                    msg=f"Release {name} could not be written: {error}."
                    " Nothing of it was kept; what serves is as it was."
                )
        result["release"] = self.described({**manifest, "path": str(folder)}, True)
        return result

    def name_again(self, current: dict[str, Any]) -> bool:
        """Give images of the current release the names and ids that this engine lacks.

        The engine may be a new one, or have another image store: the same images have other ids.
        """
        images, stack = self.params["images"], self.params["stack"]
        names = {f"{stack}/{name}:{current['id']}": images[name] for name in self.params["tags"]}
        known = known_images(self.docker, list(names)) if names else {}
        tags = {
            f"Tagging {name}": ["image", "tag", image["id"], name]
            for name, image in names.items()
            if image["id"] not in known.get(name, ())
        }
        self.run(tags, current["path"])
        if current.get("images") != images:
            self.annotate(current["id"], {"images": images})
            return True
        return bool(tags)

    def accept(self, release: str) -> Callable[[Path], None]:
        """Return what validates the folder of a release, and names its images."""

        def check(draft: Path) -> None:
            self.run({"The rendered compose file": ["compose", "config", "--quiet"]}, str(draft))
            tags = {}
            for name in self.params["tags"]:
                tag = f"{self.params['stack']}/{name}:{release}"
                image = self.params["images"][name]["id"]
                tags[f"Tagging {tag}"] = ["image", "tag", image, tag]
            self.run(tags, str(draft))

        return check

    def run(self, commands: dict[str, list[str]], folder: str) -> None:
        """Run Docker commands side by side; one clear error when one is refused.

        `commands` are arguments of the Docker client by what they do.
        """
        cli = self.params["docker_cli"]
        with ThreadPoolExecutor(4) as pool:
            done = {
                what: pool.submit(self.module.run_command, [cli, *arguments], cwd=folder)
                for what, arguments in commands.items()
            }
        for what, answer in done.items():
            code, out, err = answer.result()
            if code != 0:
                self.module.fail_json(
                    msg=composed(
                        f"{what} was refused: {quote_last_lines(err) or quote_last_lines(out)}."
                        " Nothing was changed; the release folder was not kept."
                    ),
                    cmd=" ".join([cli, *commands[what]]),
                )

    def diff(self, current: dict[str, Any]) -> list[dict[str, str]]:
        """The files against those of the current release, values of secrets hidden."""
        shown = []
        for item in self.files:
            before, after = self.old_text(current, item["path"]), item["content"]
            if before == after or item["path"] == ".env":
                continue
            if item["path"] in self.secret and item["path"].startswith(".env"):
                before, after = redacted_env(before, after, ""), redacted_env(after, before)
            elif item["path"] in self.secret:
                before, after = ("(secret)\n" if before else ""), "(secret, differs)\n"
            header = item["path"]
            shown.append(
                {
                    "before": before,
                    "after": after,
                    "before_header": header,
                    "after_header": header,
                }
            )
        return shown

    def old_text(self, current: dict[str, Any], path: str) -> str:
        """A file of the current release; empty when there is none."""
        try:
            return (Path(current["path"]) / path).read_bytes().decode() if current else ""
        except (OSError, UnicodeError):
            return ""

    def promote(self) -> dict[str, Any]:
        """Make the staged release the current one and record what was seen of it."""
        current, following = self.linked("current"), self.linked("next")
        facts, told = self.params["facts"], self.counted()
        seconds = self.seconds()
        measured: dict[str, Any] = {"seconds": seconds} if self.params["run"] else {}
        if told:
            measured |= {key: told["counted"][key] for key in ("tasks", "requests")}
        if measured:
            facts = {**facts, "deploy": {**facts.get("deploy", {}), **measured}}
        if not following:
            # The same release from other inputs: the next deploy of them is done at one look, and
            # a rollback to it is judged by what was proved now (hooks, expected tasks, canary).
            renewed = {name: facts[name] for name in ("inputs", "model") if name in facts}
            if current and any(current.get(name) != value for name, value in renewed.items()):
                self.annotate(current["id"], renewed)
            return {**self.info(), "changed": False, "seconds": seconds, **told}
        if not self.module.check_mode:
            try:
                self.note("promote", release=following["id"])
                self.annotate(following["id"], facts)
                self.store.link("current", following["id"])
                self.store.unstage()
            except OSError as error:
                self.module.fail_json(
                    msg=f"Release {following['id']} could not be made the current one: {error}."
                    " Its folder is whole; deploy again."
                )
        result = self.prune()
        return {
            **result,
            "changed": True,
            "release": self.described(following, False),
            "current": following["id"],
            "previous": current.get("id", ""),
            "seconds": seconds,
            **told,
        }


class Kept(Module):
    """The states of releases that are kept."""

    def chosen(self) -> dict[str, Any]:
        """The release in question; fails with the list of kept ones when there is none."""
        try:
            return self.store.find(self.params["id"] or "")
        except ReleaseError as error:
            self.module.fail_json(msg=str(error))
        raise AssertionError  # fail_json has ended the process

    def tag(self) -> dict[str, Any]:
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
                    msg=composed(f"{reference} cannot be named again: {quote_last_lines(err, 5)}")
                )
        return {"changed": changed, "release": release}

    def put_back(self) -> dict[str, Any]:
        """Point `current` at the release and take the mark off a staged one."""
        release, staged = self.chosen(), self.store.staged
        changed = release["id"] != self.store.current
        if changed and not self.module.check_mode:
            self.note("promote", release=release["id"])
            self.store.link("current", release["id"])
        if staged not in ("", release["id"]):
            self.params["reason"] = f"given up: release {release['id']} was put back"
            changed |= self.abandon()["changed"]
        result = {"changed": changed, "release": release, "ended": False, **self.counted()}
        result["seconds"] = self.seconds()
        run = self.params["run"]
        if run and self.params["ends"] and not self.module.check_mode:
            # The lock is given back once more at the end of the run.
            with contextlib.suppress(LockedError):
                result["ended"] = Journal(run["root"], run["id"]).end("done")
        return result

    def abandon(self) -> dict[str, Any]:
        """The staged release failed: it is not to be resumed, and its manifest says why."""
        staged = self.store.staged
        if not staged:
            return {"changed": False}
        if not self.module.check_mode:
            self.note("abandon", release=staged)
            if staged in self.store.manifests:
                self.annotate(staged, {"failed": self.params["reason"] or "failed"})
            self.store.unstage()
        return {"changed": True}

    def add_facts(self) -> dict[str, Any]:
        """Add facts to the manifest of a release."""
        wanted = self.params["id"] or self.store.staged or self.store.current
        known = self.store.manifests.get(wanted, {})
        facts = self.params["facts"]
        changed = bool(known) and any(known.get(name) != value for name, value in facts.items())
        if changed:
            self.annotate(wanted, facts)
        return {"changed": changed}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "staged", ("files", "images"))],
        supports_check_mode=True,
    )
    releases = Deployed(module)
    kept = Kept(module)
    before = kept.store.releases if module.params["state"] not in DEPLOYED else []
    actions = {
        **{"info": releases.info, "staged": releases.stage, "current": releases.promote},
        **{"listed": lambda: {"changed": False}, "tagged": kept.tag, "put_back": kept.put_back},
        **{"abandoned": kept.abandon, "annotated": kept.add_facts, "pruned": kept.prune},
    }
    result = actions[module.params["state"]]()
    if module.params["state"] not in DEPLOYED:
        result["releases"] = before
    if module.params["state"] == "staged" and not module.check_mode:
        try:
            result["changed"] = place(Path(module.params["root"])) or result["changed"]
        except (OSError, ValueError) as error:
            module.fail_json(
                msg="The token that passes the maintenance page could not be put in place of"
                f" {module.params['root']}/secrets.json: {error}. What serves is as it was."
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
