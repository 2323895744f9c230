#!/usr/bin/python
"""Copy static files out of a release's image, for nginx to serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: static_files
short_description: Copy static files out of a release's image, for nginx to serve
description:
  - Puts the files of folders of an image into C(<root>/live/static/<release>), below the paths that
    they have in the image. nginx serves them from the moment on in which requests go to the
    release (M(compose_rollout)); until then nothing of what it serves changes.
  - Files of the other releases in C(<root>/releases) that the release has not are added as hard
    links, for pages that were loaded before a deploy or a rollback. Files that are equal to those
    of another release are hard links, too, and keep the time of the first copy.
  - Trees of releases that are gone are removed, except the one that serves.
  - Nothing of the image is started. When the files of the release are there, nothing is copied. A
    run that was killed leaves nothing that counts.
extends_documentation_fragment: [crisper.docker, crisper.root]
author: [Crisper]
options:
  release:
    description: Id of the release whose files are wanted.
    type: str
    required: true
  image:
    description: Reference of its image on the host.
    type: str
    required: true
  folders:
    description: Absolute paths of folders or files in the image.
    type: list
    elements: str
    required: true
  locations:
    description:
      - What nginx does with paths, as C(proxy.locations) of the stack's model. An alias that is a
        folder where one file is meant, or the other way round, fails before anything is put there.
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Changes nothing in check mode and tells whether it would.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Copy the static files out of the image
  static_files:
    root: /opt/crisper
    release: 20261120t221500z-1a2b3c4d
    image: crisper/backend:20261120t221500z-1a2b3c4d
    folders: [/app/staticfiles]
"""

RETURN = r"""
files:
  description: How many files the release has of its own.
  returned: always
  type: int
  sample: 163
removed:
  description: Ids of releases that are gone and whose files were removed.
  returned: always
  type: list
  elements: str
  sample: [20261101t080000z-99887766]
skipped:
  description: Links and other members that are no files, which were left out.
  returned: always
  type: list
  elements: str
  sample: []
"""

import subprocess
import tarfile
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.docker.labels import NO_SERVICE
from ansible_collections.crisper.stack.plugins.module_utils.output import quote_last_lines
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_draft import StaticDraft
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_files import StaticFiles
from ansible_collections.crisper.stack.plugins.module_utils.text import composed

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "release": {"type": "str", "required": True},
    "image": {"type": "str", "required": True},
    "folders": {"type": "list", "elements": "str", "required": True},
    "locations": {"type": "list", "elements": "dict", "default": []},
    "docker_cli": {"type": "str", "default": "docker"},
}


class Image:
    """A container of an image that is never started, for its files."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.cli = module.params["docker_cli"]
        self.reference = module.params["image"]

    def __enter__(self) -> Image:
        """Create the container; the word `true` stands for the command that an image may lack."""
        code, out, err = self.module.run_command(
            [
                *(self.cli, "create", "--pull", "never", "--network", "none"),
                *(*NO_SERVICE, self.reference, "true"),
            ]
        )
        if code != 0:
            self.module.fail_json(
                msg=composed(
                    f"No container of {self.reference} can be made for its static files:"
                    f" {quote_last_lines(err, 5)}. Deploy again: a deploy checks images first."
                )
            )
        self.container = out.strip()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the container with its volumes."""
        self.module.run_command([self.cli, "rm", "--force", "--volumes", self.container])

    def copy(self, folder: str, draft: StaticDraft) -> None:
        """Copy one folder into the draft of the release's tree."""
        command = [self.cli, "cp", "--follow-link", f"{self.container}:{folder}", "-"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdout=pipe, stderr=pipe) as copying:
            archive, errors = cast(IO[bytes], copying.stdout), cast(IO[bytes], copying.stderr)
            try:
                for _path in draft.extract(archive, folder):
                    pass
            except (OSError, tarfile.TarError) as error:
                copying.kill()
                output = errors.read().decode(errors="replace").strip()
                self.fail(folder, output or str(error))
            output = errors.read().decode(errors="replace").strip()
            if copying.wait() != 0:
                self.fail(folder, output)

    def fail(self, folder: str, output: str) -> NoReturn:
        """End with a folder that cannot be copied."""
        self.module.fail_json(
            msg=composed(
                f"The static files in {folder} cannot be copied out of {self.reference}:"
                f" {quote_last_lines(output, 5)}. The image must have that folder: run"
                " collectstatic, or such, when it is built, or correct the alias in"
                " stack_app.locations."
            )
        )
        raise AssertionError  # fail_json has ended the process


def build(module: AnsibleModule, files: StaticFiles) -> list[str]:
    """Build the tree of the release out of its image; return what was left out of it."""
    folders, draft = module.params["folders"], StaticDraft(files)
    try:
        draft.begin()
        with Image(module) as image:
            for folder in folders:
                image.copy(folder, draft)
        if problem := draft.misplaced(module.params["locations"]):
            module.fail_json(msg=problem)
        draft.publish(folders)
    finally:
        # What is left of a failure would fill the disk further.
        draft.discard()
    if draft.skipped:
        module.warn(
            f"{len(draft.skipped)} links among the static files were left out, such as"
            f" {draft.skipped[0]}: they lead nowhere outside the image. Copy the files, without"
            " --link."
        )
    return draft.skipped


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    files = StaticFiles(Path(params["root"]), params["release"])
    complete, removed = files.complete(params["folders"]), files.stale()
    skipped: list[str] = []
    changed = not complete or bool(removed)
    if changed and not module.check_mode:
        try:
            if not files.built(params["folders"]):
                skipped = build(module, files)
            elif not complete:
                files.supplement()
            files.prune()
        except OSError as error:
            module.fail_json(
                msg=f"The static files of release {params['release']} cannot be put into"
                f" {files.folder}: {error}. What nginx serves is unchanged. Is the disk full (df)?"
                " Then run the deploy again."
            )
    module.exit_json(
        changed=changed,
        files=len(files.own),
        removed=[
            name for name in removed if not name.startswith(".") and not name.endswith(".json")
        ],
        skipped=skipped,
    )


if __name__ == "__main__":
    main()
