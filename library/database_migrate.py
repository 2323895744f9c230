#!/usr/bin/python
"""Dump and migrate a stack's database, so that a deploy that is cut off can go on."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_migrate
short_description: Dump and migrate a stack's database, resumably
description:
  - Takes the steps of a migration in their order - whether one is pending, the dump, the commands
    before it, the migration itself, and the commands after it. Each step is written into the
    journal and into the release's manifest before it begins.
  - Commands run in one-off containers of the release, which go on when the module is killed. The
    next call waits for them and reads what became of them, whichever release they are of, before it
    does anything itself. So there are never two migrations at once, and one that applied something
    which cannot be undone is recorded in any case.
  - A dump is never overwritten once anything that may change the database has begun. Dumps are of
    PostgreSQL; MariaDB is not dumped.
extends_documentation_fragment: [crisper, crisper.docker, crisper.project, crisper.root]
options:
  state:
    description:
      - C(migrated) takes all steps. C(collected) only waits for what a killed module left running
        and writes down what became of it.
    type: str
    choices: [migrated, collected]
    default: migrated
  release:
    description: Id of the release that is migrated to. Needed to migrate.
    type: str
  current:
    description:
      - Id of the release that serves. Without one there is nothing to dump, and nothing to check.
    type: str
    default: ""
  command:
    description: The migration command. Needed to migrate.
    type: list
    elements: str
  command_changed:
    description:
      - Whether O(command) is another one than the last release's. It then runs whatever
        O(check_command) says, which is about the old one too.
    type: bool
    default: false
  timeout:
    description: Seconds that the migration may take.
    type: int
    default: 600
  check_command:
    description: Command that exits with 0 when no migration is pending.
    type: list
    elements: str
    default: []
  changed_pattern:
    description: Regular expression in the output of a migration that applied anything.
    type: str
  irreversible_pattern:
    description: Regular expression in the output of a migration that cannot be undone.
    type: str
    default: (?i)irreversible
  backup:
    description: Whether the database is dumped before the migration.
    type: bool
    default: true
  hooks:
    description: Commands before and after the migration.
    type: dict
    suboptions:
      before_migrate: &point
        description: Commands, one after the other; the first that fails ends the module.
        type: list
        elements: dict
        default: []
        suboptions:
          name:
            description: Its name, for messages.
            type: str
            required: true
          command:
            description: The command.
            type: list
            elements: str
            required: true
          timeout:
            description: Seconds that it may take.
            type: int
            required: true
      after_migrate: *point
attributes:
  check_mode:
    description: Does nothing in check mode; M(stack_plan) tells whether migrations are pending.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Migrate the database
  database_migrate:
    root: /opt/crisper
    project: crisper
    release: 20261120t221500z-1a2b3c4d
    current: 20261119t080000z-99887766
    command: [alembic, upgrade, head]
    check_command: [alembic, current, --check-heads]
    changed_pattern: Running upgrade
    run: {root: /opt/crisper, id: 4711}
"""

RETURN = r"""
pending:
  description: Whether there was anything to migrate.
  returned: in state C(migrated)
  type: bool
  sample: true
backup:
  description: The dump from before the migration; empty without one.
  returned: in state C(migrated), also on failure of the migration
  type: dict
  sample: {path: /opt/crisper/backups/20261120t221500z-1a2b3c4d.dump, bytes: 48213, sha256: 9f8e}
irreversible:
  description: Whether the migration cannot be undone, as the manifest has it.
  returned: when the migration ran
  type: bool
  sample: false
output:
  description: The last lines that the migration printed; passwords in addresses are masked.
  returned: in state C(migrated)
  type: str
  sample: Running upgrade 7 -> 8, add a column
rc:
  description: Exit code of the command that failed.
  returned: on failure of a command
  type: int
  sample: 1
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.database.interrupted import POINTS
from ansible_collections.crisper.stack.plugins.module_utils.database.migration import (
    HOOK_SPEC,
    Migration,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.migration_plan import (
    IRREVERSIBLE,
)
from ansible_collections.crisper.stack.plugins.module_utils.journal import RUN_SPEC

ARGUMENT_SPEC: dict[str, Any] = {
    "state": {"type": "str", "choices": ["migrated", "collected"], "default": "migrated"},
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "release": {"type": "str"},
    "current": {"type": "str", "default": ""},
    "command": {"type": "list", "elements": "str"},
    "command_changed": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 600},
    "check_command": {"type": "list", "elements": "str", "default": []},
    "changed_pattern": {"type": "str"},
    "irreversible_pattern": {"type": "str", "default": IRREVERSIBLE},
    "backup": {"type": "bool", "default": True},
    "hooks": {
        "type": "dict",
        "apply_defaults": True,
        "options": {point: HOOK_SPEC for point in POINTS},
    },
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "migrated", ("release", "command"))],
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False)
    steps = Migration(module)
    if module.params["state"] == "collected":
        module.exit_json(changed=steps.collect())
    module.exit_json(**steps.migrate())


if __name__ == "__main__":
    main()
