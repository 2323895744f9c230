#!/usr/bin/python
"""Data of a stack's databases that fits the images of a release."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_upgrade
short_description: Fit the data of a stack's databases to the images of a release
description:
  - C(fitted) compares the versions that wrote the data in the stack's volumes with those of the
    release's images, and fails when an image cannot open them. What an upgrade has replaced whose
    release was given up is put back first.
  - C(upgraded) brings PostgreSQL's data into a new cluster of the release's image - a dump from
    the old server, which must run and have no writers; a new cluster in a volume of its own; a
    comparison of row counts and migration head; then the old data is copied into the volume
    C(<project>_postgres_<old version>_<time>) and the new cluster takes its place. What fails
    leaves the old data in its place, and the old server running.
  - C(seen) only looks, after the release of an upgrade has failed.
  - An upgrade that was cut off is put in order by the next call of the first two.
extends_documentation_fragment: [crisper, crisper.docker, crisper.project, crisper.root]
options:
  release:
    description: Folder of the release.
    type: path
    required: true
  state:
    description: What to make true.
    type: str
    choices: [fitted, upgraded, seen]
    default: fitted
  upgrade:
    description: With C(fitted), whether a need to upgrade is returned and no failure.
    type: bool
    default: false
  rebuild:
    description:
      - With C(fitted) and O(upgrade), whether data of the image's own version needs a new cluster,
        too. Of the old cluster only what the application's role may make comes along, and nothing
        that a former superuser has planted. The new cluster is not put back by a deploy that fails.
    type: bool
    default: false
  kept:
    description: With C(seen), the volume with the old data that the upgrade has made.
    type: str
    default: ""
  dump:
    description: With C(seen), the dump of the upgrade.
    type: path
    default: ""
  timeout:
    description: Seconds that one step may take.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Compare the data with the database images
  database_upgrade:
    root: /opt/crisper
    project: crisper
    release: /opt/crisper/releases/20261120t221500z-1a2b3c4d

- name: Upgrade the data of PostgreSQL
  database_upgrade:
    root: /opt/crisper
    project: crisper
    release: /opt/crisper/releases/20261120t221500z-1a2b3c4d
    state: upgraded
"""

RETURN = r"""
needed:
  description: Whether PostgreSQL's data must be upgraded for this release.
  returned: with O(state=fitted)
  type: bool
  sample: false
put_back:
  description: Volume from which the data before an upgrade was put back; empty when none was.
  returned: with O(state=fitted)
  type: str
  sample: ""
from:
  description: Major version of PostgreSQL that wrote the data; empty without data.
  returned: always
  type: str
  sample: "17"
to:
  description: Major version of PostgreSQL in the release's image.
  returned: always
  type: str
  sample: "18"
kept:
  description: Volume with the data as it was.
  returned: with O(state=upgraded)
  type: str
  sample: crisper_postgres_17_20261120t221500z
dump:
  description: The dump that the new cluster was made from.
  returned: with O(state=upgraded)
  type: str
  sample: /opt/crisper/backups/upgrade-17-to-18-20261120t221500z.dump
rows:
  description: Rows by table, the same in both clusters.
  returned: with O(state=upgraded)
  type: dict
  sample: {public.items: 120}
words:
  description: Which data there is now, and what is left of the upgrade, as a part of a sentence.
  returned: with O(state=seen)
  type: str
  sample: the volume crisper_postgres has data of PostgreSQL 17; its dump is /opt/crisper/backups/a
settings:
  description:
    - Settings that the new server does not have (C(ALTER SYSTEM), C(ALTER ROLE … SET),
      C(ALTER DATABASE … SET)).
  returned: with O(state=upgraded)
  type: list
  elements: str
  sample: [work_mem = 64MB]
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.database.upgrade import Upgrade
from ansible_collections.crisper.stack.plugins.module_utils.database.upgrade_stack import Stack
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    NotOwnerError,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import composed

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "release": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["fitted", "upgraded", "seen"], "default": "fitted"},
    "upgrade": {"type": "bool", "default": False},
    "rebuild": {"type": "bool", "default": False},
    "kept": {"type": "str", "default": ""},
    "dump": {"type": "path", "default": ""},
    "timeout": {"type": "int", "default": 3600},
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, needed=False)
    docker = Docker(params["docker_cli"], params["timeout"])
    stack = Stack(
        Path(params["root"]),
        params["project"],
        Path(params["release"]),
        docker,
        lambda step: note(params, step),
    )
    upgrade = Upgrade(stack)
    try:
        if params["state"] == "fitted":
            module.exit_json(**upgrade.prepare(params["upgrade"], params["rebuild"]))
        if params["state"] == "seen":
            module.exit_json(**upgrade.describe(params["kept"], params["dump"]))
        module.exit_json(**upgrade.upgrade())
    except (BackupError, NotOwnerError) as error:
        module.fail_json(msg=composed(str(error)))


if __name__ == "__main__":
    main()
