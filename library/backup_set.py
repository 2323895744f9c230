#!/usr/bin/python
"""Backup sets of a stack: made, checked, put back, tried."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_set
short_description: Make, check, restore and try the backup sets of a stack
description:
  - A set is a folder C(<root>/backups/<set id>) with PostgreSQL (C(pg_dump), custom format),
    MariaDB, Qdrant and Redis as the current release has them, that release's manifest, and a
    C(manifest.json) with sizes, checksums, versions, row counts and the migration head.
  - It is made while the stack serves, and named when it is whole.
extends_documentation_fragment: [crisper, crisper.docker, crisper.project, crisper.root]
options:
  state:
    description:
      - C(made) makes a set, removes those that retention does not keep, and copies it to the
        remote.
      - C(checked) reads O(set) and fails when it is not a set of this stack, is damaged, cannot be
        decrypted or does not fit what runs, before anything is touched. What a restore that was
        killed has left is put in order - its containers go, data services that it had stopped run
        again. What the application's role has done to keep itself out of its database is undone
        (M(database_roles)).
      - C(restored) does the same and puts it back into the running data services. Nobody else may
        write meanwhile.
      - C(drilled) restores it into throwaway containers and compares what is in them with the
        manifest. The stack is not touched.
    type: str
    choices: [made, checked, restored, drilled]
    default: made
  set:
    description: Id of the set; empty takes the newest.
    type: str
    default: ""
  who:
    description: Who makes the set, for its manifest.
    type: str
    default: ""
  host:
    description: Name of the server, for the manifest.
    type: str
    default: ""
  keep:
    description: How many sets stay.
    type: int
    default: 7
  keep_days:
    description: Days after which a set goes; 0 for never. The newest always stays.
    type: float
    default: 0.0
  encryption:
    description: Tool that encrypts the files of the set; empty for none.
    type: str
    choices: ["", age, gpg]
    default: ""
  recipient:
    description: File on the server with the public key to encrypt for.
    type: path
    default: ""
  identity:
    description: File on the server with the private key, to read an encrypted set.
    type: path
    default: ""
  key_file:
    description:
      - File on the server with the key that signs the sets, like C(secrets.json) of the stack or
        with nothing but the key; empty for C(secrets.json). A set that is made is signed with it.
    type: path
    default: ""
  accept_foreign:
    description:
      - Whether a set is read that is not signed, is signed with another key or is of another stack.
        One that was altered after it was signed with this key is never read.
    type: bool
    default: false
  remote_encrypted:
    description: Whether the remote encrypts by itself, so that nothing is warned of.
    type: bool
    default: false
  remote_tool:
    description: Tool that copies the set elsewhere; empty for no copy.
    type: str
    choices: ["", rsync, rclone]
    default: ""
  remote_target:
    description: Where to, as the tool takes it. The set becomes a folder in it.
    type: str
    default: ""
  remote_options:
    description: More arguments for the tool.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that one part may take.
    type: int
    default: 3600
attributes:
  check_mode:
    description: Makes and restores nothing in check mode; C(checked) only looks anyway.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Make a backup set
  backup_set:
    root: /opt/crisper
    project: crisper
    who: "{{ lookup('crisper_run').who }}"

- name: Check the newest backup set
  backup_set:
    root: /opt/crisper
    project: crisper
    state: checked
"""

RETURN = r"""
set:
  description:
    - Manifest of the set, with its C(path), and C(foreign), why it is not a set of this stack.
  returned: always, empty for C(made) in check mode
  type: dict
  sample:
    set: 20261120t221500z
    foreign: ""
    path: /opt/crisper/backups/20261120t221500z
    made_at: "2026-11-20T22:15:00+00:00"
    release: 20261119t080000z-99887766
    encryption: ""
    parts: {postgres: {file: postgres.dump, version: "17.6", migration_head: ["0008"]}}
    files: {postgres.dump: {bytes: 48213, sha256: 9f8e}}
left_out:
  description:
    - How many entries of the uploaded files were not put back, or were put back without a property,
      by what they are.
  returned: when O(state=restored)
  type: dict
  sample: {named pipes: 1}
database_made:
  description: Whether the application's database was missing, and the restore has made it.
  returned: when O(state=restored)
  type: bool
  sample: false
untouched:
  description: Whether a restore that failed has left all data as it was.
  returned: when O(state=restored) fails
  type: bool
  sample: true
removed:
  description: Sets that retention did not keep.
  returned: when O(state=made)
  type: list
  elements: str
  sample: [20261101t030000z]
copied:
  description: The command that copied the set elsewhere; empty without a remote.
  returned: when O(state=made)
  type: list
  elements: str
  sample: [rsync, --archive, /opt/crisper/backups/20261120t221500z, "elsewhere:/srv/crisper/"]
report:
  description: What was counted in the restored services, and in how many seconds.
  returned: when O(state=drilled)
  type: dict
  sample: {postgres: {seconds: 4.1, rows: {public.items: 120}, migration_head: ["0008"]}}
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.remedies import (
    during_restore,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.versions import (
    service_version,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.check import check, check_fit
from ansible_collections.crisper.stack.plugins.module_utils.backup.drill import drill
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import (
    SUFFIXES,
    BackupError,
    remote_warning,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.restore import (
    UntouchedError,
    clean_up,
    missing_database,
    order_roles,
    restore,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.set import (
    Settings,
    copy_away,
    expire,
    make,
    services,
)
from ansible_collections.crisper.stack.plugins.module_utils.database.versions import loose_psql
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    NotOwnerError,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import composed

ARGUMENT_SPEC: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "project": {"type": "str", "required": True},
    "state": {
        "type": "str",
        "choices": ["made", "checked", "restored", "drilled"],
        "default": "made",
    },
    "set": {"type": "str", "default": ""},
    "who": {"type": "str", "default": ""},
    "host": {"type": "str", "default": ""},
    "keep": {"type": "int", "default": 7},
    "keep_days": {"type": "float", "default": 0.0},
    "encryption": {"type": "str", "choices": list(SUFFIXES), "default": ""},
    "recipient": {"type": "path", "default": ""},
    "identity": {"type": "path", "default": ""},
    "key_file": {"type": "path", "default": "", "no_log": False},
    "accept_foreign": {"type": "bool", "default": False},
    "remote_encrypted": {"type": "bool", "default": False},
    "remote_tool": {"type": "str", "choices": ["", "rsync", "rclone"], "default": ""},
    "remote_target": {"type": "str", "default": ""},
    "remote_options": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "int", "default": 3600},
    "docker_cli": {"type": "str", "default": "docker"},
    "run": RUN_SPEC,
}
OF_SETTINGS = (
    *("project", "who", "host", "keep", "keep_days", "encryption", "recipient"),
    *("remote_tool", "remote_target", "remote_options", "timeout", "docker_cli", "key_file"),
)


OF_WARNING = ("remote_tool", "remote_target", "encryption", "remote_encrypted")


def act(
    params: dict[str, Any], check_mode: bool, warn: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Do what the module is asked to do; return its result."""
    settings = Settings(root=Path(params["root"]), **{name: params[name] for name in OF_SETTINGS})
    state, identity = params["state"], params["identity"]

    def noted(step: str) -> None:
        note(params, step)

    if state == "made":
        if warning := remote_warning(*(params[name] for name in OF_WARNING)):
            warn(warning)
        if check_mode:
            return {"changed": True, "set": {}, "removed": [], "copied": []}
        made = make(settings, noted)
        # The copy goes last: what it cannot do leaves the set and the retention in order.
        removed = expire(settings)
        return {
            "changed": True,
            "set": made,
            "removed": removed,
            "copied": copy_away(settings, made["set"]),
        }
    manifest = check(settings, params["set"], identity, params["accept_foreign"])
    result: dict[str, Any] = {"changed": state == "restored", "set": manifest}
    if state != "drilled":
        done = [] if check_mode else [*clean_up(settings, noted), *order_roles(settings)]
        for sentence in done:
            if state == "checked":  # before C(restored), which would say the same
                warn(sentence)
        if state == "checked" and (sentence := missing_database(settings)):
            warn(sentence)
        check_fit(settings, manifest)
        judge_psql(settings, manifest, warn if state == "checked" else lambda _: None)
    if state == "restored" and not check_mode:
        result |= restore(settings, manifest, identity, noted)
    if state == "drilled":
        result["report"] = {} if check_mode else drill(settings, manifest, identity, noted)
    return result


def judge_psql(settings: Settings, manifest: dict[str, Any], warn: Callable[[str], None]) -> None:
    """Refuse an old psql for a set of somebody else, and warn of it for one of this stack.

    The application can bring such lines into the names of its own objects, too; but the way back
    to a backup stays open where no newer image is at hand.

    Raises:
        BackupError: the set is foreign. Nothing was touched.
    """
    container = services(settings).get("postgres")
    problem = ""
    if container:
        problem = loose_psql(service_version(settings.docker, "postgres", container))
    if problem and manifest["foreign"]:
        raise BackupError(f"{problem}, deploy, and restore again. Nothing was touched.")
    if problem:
        warn(f"{problem}, and deploy. The set is of this stack, and is restored all the same.")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        supports_check_mode=True,
    )
    restores = module.params["state"] != "made"
    try:
        module.exit_json(**act(module.params, module.check_mode, module.warn))
    except UntouchedError as error:
        module.fail_json(msg=composed(during_restore(str(error))), untouched=True)
    except (BackupError, NotOwnerError) as error:
        problem = during_restore(str(error)) if restores else str(error)
        module.fail_json(msg=composed(problem))


if __name__ == "__main__":
    main()
