#!/usr/bin/python
"""dockerd's configuration file: merged, validated, and what a change of it asks for."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_daemon_config
short_description: Keys of dockerd's daemon.json
description:
  - Merges keys into C(daemon.json), keeping those of others, lets C(dockerd --validate) judge
    the result, and writes it only if it passes.
  - Says what a running engine needs to take the change over. Does not touch the engine.
author: [Crisper]
options:
  config:
    description: Keys to have; dictionaries are merged, a null removes a key.
    type: dict
    required: true
  path:
    description: The configuration file.
    type: path
    default: /etc/docker/daemon.json
  flags:
    description: >-
      Flags the running engine was started with; a setting may be there or in the file, not in
      both, or the engine would not start again.
    type: list
    elements: str
    default: []
attributes:
  check_mode: {support: full}
  diff_mode: {support: full}
"""

EXAMPLES = r"""
- name: Set the rotation of logs
  docker_daemon_config:
    config:
      log-driver: json-file
      log-opts: {max-size: 10m, max-file: "3"}
"""

RETURN = r"""
action:
  description: "What a running engine needs: none, reload (SIGHUP) or restart."
  type: str
  returned: success
keys: {description: Top level keys that changed., type: list, elements: str, returned: success}
restart_keys:
  description:
    - Those of them that a reload does not bring into force; of C(features) that is
      C(features.containerd-snapshotter).
  type: list
  elements: str
  returned: success
validated:
  description: Whether dockerd judged the file; it cannot in check mode before it is installed.
  type: bool
  returned: success
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder
from ansible_collections.crisper.stack.plugins.module_utils.host import engine as engine_logic
from ansible_collections.crisper.stack.plugins.module_utils.output import quote_last_lines

SPEC = {
    "config": {"type": "dict", "required": True},
    "path": {"type": "path", "default": "/etc/docker/daemon.json"},
    "flags": {"type": "list", "elements": "str", "default": []},
}


def existing(module: AnsibleModule, path: str) -> tuple[str, dict[str, Any]]:
    """Return text and keys of the file as it is; fail where it is no object of JSON."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError:
        return "", {}
    try:
        keys = json.loads(text or "{}")
    except ValueError as error:
        module.fail_json(msg=f"{path} is no valid JSON ({error}): repair or remove it")
    if not isinstance(keys, dict):
        module.fail_json(msg=f"{path} holds no JSON object: repair or remove it")
    return text, keys


def validate(module: AnsibleModule, text: str, flags: list[str]) -> tuple[str, bool]:
    """Let dockerd judge ``text``: (the temporary file with it, whether it was judged)."""
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir, suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    dockerd = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")
    if not dockerd:
        if module.check_mode:
            return temporary, False
        module.fail_json(msg="dockerd is not installed: nothing can judge its configuration")
    rc, out, err = module.run_command([dockerd, "--validate", "--config-file", temporary, *flags])
    if rc != 0:
        module.fail_json(
            msg=(
                f"dockerd refuses the configuration for {module.params['path']}, which was left "
                f"as it is: {quote_last_lines(err or out)} - see docker_daemon_options"
            ),
            stdout=out,
            stderr=err,
        )
    return temporary, True


def main() -> None:
    """Merge, validate, write."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    path = module.params["path"]
    old_text, old = existing(module, path)
    new = engine_logic.merged(old, module.params["config"])
    keys = engine_logic.changed_keys(old, new)
    result = {
        "changed": bool(keys) or not old_text,
        "keys": keys,
        "restart_keys": engine_logic.restart_keys(old, new),
        "action": engine_logic.action_for(old, new),
        "validated": False,
    }
    if not result["changed"]:
        module.exit_json(**result)

    text = json.dumps(new, indent=2, sort_keys=True) + "\n"
    result["diff"] = {
        "before": old_text,
        "after": text,
        "before_header": path,
        "after_header": path,
    }
    temporary, result["validated"] = validate(module, text, module.params["flags"])
    if not module.check_mode:
        make_folder(Path(path).parent)
        module.atomic_move(temporary, path)
        module.set_mode_if_different(path, 0o644, True)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
