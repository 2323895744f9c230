#!/usr/bin/python
"""Stage, promote and describe the releases of a stack on the server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Stage, promote and describe the releases of a stack
description:
  - A release is one folder C(<root>/releases/<id>) that holds everything that decides what runs.
  - C(staged) writes it whole or not at all, unless C(current) or C(next) already is the same
    release by fingerprint; C(current) promotes the staged one; C(info) only looks.
  - The symlink C(next) names a release that was staged and is not yet proved, C(current) the
    one that serves.
extends_documentation_fragment:
  - crisper
  - crisper.files
  - crisper.ledger
  - crisper.docker
  - crisper.root
options:
  state:
    description: What to make true.
    type: str
    choices: [staged, current, info]
    default: info
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
    type: dict
    default: {}
  host_inputs:
    description: With C(staged), digest of what the host was made from; the journal gets it.
    type: str
    default: ""
  keep:
    description:
      - With C(current), how many proved releases stay; the others go, as by M(kept_releases) in
        state C(pruned). 0 removes none.
    type: int
    default: 0
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
"""

RETURN = r"""
release:
  description: The release in question (staged, or current when nothing is staged); empty when none.
  returned: always
  type: dict
  sample:
    id: 20261120t221500z-1a2b3c4d
    path: /opt/crisper/releases/20261120t221500z-1a2b3c4d
    fingerprint: 1a2b3c4d5e6f
    staged: true
current:
  description: Id of the release that serves; empty before the first deploy.
  returned: always
  type: str
  sample: 20261119t080000z-99887766
seconds:
  description:
    - Seconds per step of this run so far, which the manifest gets too, as C(deploy.seconds).
  returned: when O(state=current) and O(run) is given
  type: dict
  sample: {begin: 4.1, stage: 2.0, start: 6.5}
counted:
  description:
    - What was counted, as M(deploy_ledger) tells it; the manifest gets the numbers, as
      C(deploy.tasks) and C(deploy.requests).
  returned: when O(state=current) and O(ledger) is given
  type: dict
  sample: {tasks: {accepted: 42, lost: 0}, requests: {probed: 88, failed: 0}, error: ""}
pruned:
  description: Ids of releases that were removed.
  returned: when O(state=current) made a release the current one
  type: list
  elements: str
  sample: [20261101t080000z-01234567]
freed_bytes:
  description: Bytes of images and layers that were freed.
  returned: when O(state=current) made a release the current one
  type: int
  sample: 412000000
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

import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder, sync_folder
from ansible_collections.crisper.stack.plugins.module_utils.images.identity import is_same
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    Journal,
    NotOwnerError,
    note,
    seconds_per_step,
)
from ansible_collections.crisper.stack.plugins.module_utils.ledger.end import SPEC as LEDGER_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.ledger.end import end
from ansible_collections.crisper.stack.plugins.module_utils.output import quote_last_lines
from ansible_collections.crisper.stack.plugins.module_utils.proxy.maintenance_pass import place
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import (
    DRAFT,
    MANIFEST,
    checksums,
    env_names_changed,
    file_options,
    fingerprint,
    redacted_env,
    release_id,
)
from ansible_collections.crisper.stack.plugins.module_utils.release.retention import prune
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback_check import (
    known_images,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import composed

# What containers mount, and who may enter it: nginx is another user than root.
LIVE = {".": 0o700, "nginx": 0o755}

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["staged", "current", "info"], "default": "info"},
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
    "ledger": LEDGER_SPEC,
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


class Releases:
    """The release folders of one stack."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.root = Path(module.params["root"])
        self.secret = {item["path"] for item in self.params["secret_files"]}
        self.files = [*self.params["files"], *self.params["secret_files"]]

    def note(self, step: str, **facts: Any) -> None:
        """Write the step into the journal, before anything of it is done."""
        try:
            note(self.params, step, **facts)
        except NotOwnerError as error:
            self.module.fail_json(msg=str(error))

    def linked(self, link: str) -> dict[str, Any]:
        """Manifest of the release that the symlink `link` names; empty when there is none."""
        path = self.root / link
        if not path.is_symlink():
            return {}
        folder = path.resolve()
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.module.fail_json(
                msg=f"{path} names {folder}, but its {MANIFEST} cannot be read: {error}."
                " Put the folder back, or remove the symlink to deploy anew."
            )
        return {**manifest, "path": str(folder)}

    def link(self, link: str, release: str) -> None:
        """Point the symlink at a release, atomically."""
        temporary = self.root / f".{link}.new"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(f"releases/{release}")
        temporary.replace(self.root / link)
        sync_folder(self.root)

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
                (self.root / "next").unlink()
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
        folder = self.root / "releases" / name
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
                self.write(folder, manifest)
                self.link("next", name)
            except OSError as error:
                self.forget(folder)
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
            self.annotate(Path(current["path"]), {"images": images})
            return True
        return bool(tags)

    def write(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Write, validate and name the folder; leave nothing behind when that fails."""
        make_folder(folder.parent)
        for left in folder.parent.glob(f"{DRAFT}*"):  # of a deploy that was killed while it wrote
            shutil.rmtree(left)
        # What containers mount: files in it belong to their users, whose uids others may have here.
        for name, mode in LIVE.items():
            make_folder(self.root / "live" / name, mode)
            (self.root / "live" / name).chmod(mode)  # earlier revisions left it to the umask
        files = [dict(item) for item in self.files]
        for item in files:
            if item["path"] == ".env":
                item["content"] += f"RELEASE={manifest['id']}\n"
        manifest["checksums"] = checksums(files)
        draft = Path(tempfile.mkdtemp(prefix=DRAFT, dir=folder.parent))
        try:
            draft.chmod(0o755)
            for item in files:
                self.write_file(draft / item["path"], item["content"], item["mode"], item["owner"])
            text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
            self.write_file(draft / MANIFEST, text, "0600", 0)
            self.run({"The rendered compose file": ["compose", "config", "--quiet"]}, str(draft))
            tags = {}
            for name in self.params["tags"]:
                tag = f"{self.params['stack']}/{name}:{manifest['id']}"
                image = self.params["images"][name]["id"]
                tags[f"Tagging {tag}"] = ["image", "tag", image, tag]
            self.run(tags, str(draft))
            for path in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
                sync_folder(path)
            if folder.exists():  # whole, of the same second, of a deploy that was killed then
                discard(folder)
            draft.rename(folder)
            sync_folder(folder.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)

    def forget(self, folder: Path) -> None:
        """Take back what there is of a release that nothing serves."""
        following = self.root / "next"
        if following.is_symlink() and following.resolve() == folder.resolve():
            following.unlink()
        if folder.exists():
            discard(folder)

    def write_file(self, path: Path, content: str, mode: str, owner: int) -> None:
        """Write a file that is never readable by more than its mode allows."""
        private = mode.endswith("00")
        make_folder(path.parent, 0o700 if private else 0o755)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        # UTF-8 and as it is, whatever the locale of this host says.
        with os.fdopen(os.open(path, flags, 0o600), "wb") as stream:
            stream.write(content.encode())
            stream.flush()
            os.fsync(stream.fileno())
        if os.geteuid() == 0:
            os.chown(path, owner, -1)
        path.chmod(int(mode, 8))

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
        facts, run, ledger = self.params["facts"], self.params["run"], self.params["ledger"]
        seconds, told = {}, {}
        if ledger and not self.module.check_mode:
            told["counted"] = counted = end(self.docker, ledger["name"], ledger["wait"])
            numbers = {key: counted[key] for key in ("tasks", "requests")}
            facts = {**facts, "deploy": {**facts.get("deploy", {}), **numbers}}
        if run:
            entries = Journal(run["root"], run["id"]).entries()
            seconds = seconds_per_step(entries, run["id"], time.time())
            facts = {**facts, "deploy": {**facts.get("deploy", {}), "seconds": seconds}}
        if not following:
            # The same release from other inputs: the next deploy of them is done at one look, and
            # a rollback to it is judged by what was proved now (hooks, expected tasks, canary).
            renewed = {name: facts[name] for name in ("inputs", "model") if name in facts}
            if current and any(current.get(name) != value for name, value in renewed.items()):
                self.annotate(Path(current["path"]), renewed)
            return {**self.info(), "changed": False, "seconds": seconds, **told}
        if not self.module.check_mode:
            try:
                self.note("promote", release=following["id"])
                self.annotate(Path(following["path"]), facts)
                self.link("current", following["id"])
                (self.root / "next").unlink()
            except OSError as error:
                self.module.fail_json(
                    msg=f"Release {following['id']} could not be made the current one: {error}."
                    " Its folder is whole; deploy again."
                )
        result = {"pruned": [], "freed_bytes": 0}
        if self.params["keep"]:
            check_mode = self.module.check_mode
            result = prune(
                self.root, self.params["stack"], self.params["keep"], self.docker, check_mode
            )
        return {
            **result,
            "changed": True,
            "release": self.described(following, False),
            "current": following["id"],
            "previous": current.get("id", ""),
            "seconds": seconds,
            **told,
        }

    def docker(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output and errors of a Docker command."""
        return self.module.run_command([self.params["docker_cli"], *arguments])

    def annotate(self, folder: Path, facts: dict[str, Any]) -> None:
        """Add to a manifest, atomically."""
        if self.module.check_mode:
            return
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8")) | facts
        draft = folder / f".{MANIFEST}"
        draft.unlink(missing_ok=True)
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        try:
            self.write_file(draft, text, "0600", 0)
            draft.replace(folder / MANIFEST)
        finally:
            draft.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove a release's folder; at no moment is a half one there under its name."""
    aside = folder.with_name(f"{DRAFT}{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "staged", ("files", "images"))],
        supports_check_mode=True,
    )
    releases = Releases(module)
    actions = {"info": releases.info, "staged": releases.stage, "current": releases.promote}
    result = actions[module.params["state"]]()
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
