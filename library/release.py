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
extends_documentation_fragment:
  - crisper
  - crisper.files
  - crisper.ledger
  - crisper.docker
  - crisper.root
options:
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
- name: Stage the release
  release:
    root: /opt/crisper
    stack: crisper
    state: staged
    files: "{{ release_files }}"
    images: "{{ stack_images }}"
    tags: [backend, frontend]

- name: Promote the staged release
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
page:
  description: Whether nginx shows the maintenance page.
  returned: in states C(current) and C(put_back)
  type: bool
  sample: false
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

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.deploy.state import PAGE
from ansible_collections.crisper.stack.plugins.module_utils.journal import RUN_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.ledger.end import SPEC as LEDGER_SPEC
from ansible_collections.crisper.stack.plugins.module_utils.proxy.maintenance_pass import place
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import file_options
from ansible_collections.crisper.stack.plugins.module_utils.release.promotion import Promotion
from ansible_collections.crisper.stack.plugins.module_utils.release.rollback import Rollback
from ansible_collections.crisper.stack.plugins.module_utils.release.staging import Staging

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


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "staged", ("files", "images"))],
        supports_check_mode=True,
    )
    state = module.params["state"]
    promotion, rollback = Promotion(module), Rollback(module)
    before = rollback.store.releases if state not in DEPLOYED else []
    actions: dict[str, Callable[[], dict[str, Any]]] = {
        **{"info": promotion.info, "current": promotion.promote, "staged": Staging(module).stage},
        **{"listed": lambda: {"changed": False}, "tagged": rollback.tag},
        **{"put_back": rollback.put_back, "abandoned": rollback.abandon},
        **{"annotated": rollback.add_facts, "pruned": rollback.prune},
    }
    result = actions[state]()
    if state in ("current", "put_back"):
        result["page"] = (Path(module.params["root"]) / PAGE).exists()
    if state not in DEPLOYED:
        result["releases"] = before
    if state == "staged" and not module.check_mode:
        try:
            result["changed"] = place(Path(module.params["root"])) or result["changed"]
        except (OSError, ValueError) as error:
            module.fail_json(
                msg="The token that passes the maintenance page could not be put in place of"
                f" {module.params['root']}/secrets.json: {error}. The serving release is unchanged."
            )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
