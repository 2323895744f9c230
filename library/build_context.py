#!/usr/bin/python
"""Digests and archives of Docker build contexts."""

from __future__ import annotations

DOCUMENTATION = r"""
module: build_context
short_description: Digest and archive of Docker build contexts
description:
  - Reads build contexts as a build would see them (C(.dockerignore) and
    C(<dockerfile>.dockerignore) are honoured) and gives each one digest over the files' contents,
    their executable bits, the Dockerfile's name and the build arguments.
  - Writes the context as a tar.gz when asked to. The same files give the same bytes.
  - Meant to run on the controller (C(delegate_to=localhost)).
author: [Crisper]
options:
  contexts:
    description: Name to context.
    type: dict
    required: true
    suboptions:
      path:
        description: Folder of the context.
        type: path
        required: true
      dockerfile:
        description: Dockerfile, relative to O(contexts.path).
        type: str
        default: Dockerfile
      args:
        description: Build arguments; they are part of the digest.
        type: dict
        default: {}
      archive:
        description: File to write the context to. Not written in check mode.
        type: path
requirements: [pathspec]
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Compute the digest of the build context
  build_context:
    contexts:
      backend: {path: app, args: {EXTRAS: postgres}}
  delegate_to: localhost
  register: context

- name: Archive the build context
  build_context:
    contexts:
      backend: {path: app, archive: /tmp/app.tar.gz}
  delegate_to: localhost
"""

RETURN = r"""
contexts:
  description: What each context is.
  returned: always
  type: dict
  contains:
    digest:
      description: SHA-256 over everything in the context that decides the image.
      type: str
      sample: 0f3a8c9d7b
    files:
      description: How many files it has.
      type: int
      sample: 42
  sample:
    backend: {digest: 0f3a8c9d7b, files: 42}
"""

import os
import tempfile
import traceback
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from ansible_collections.crisper.stack.plugins.module_utils.images.context import (
        ContextError,
        digest,
        scan,
        write_archive,
    )
except ImportError:
    PATHSPEC_ERROR: str | None = traceback.format_exc()
else:
    PATHSPEC_ERROR = None

ARGUMENT_SPEC: dict[str, Any] = {"contexts": {"type": "dict", "required": True}}
CONTEXT_KEYS = {"path", "dockerfile", "args", "archive"}


def read_context(name: str, context: Any, check_mode: bool) -> tuple[dict[str, Any], bool]:
    """Read one context, and archive it when asked to."""
    if not isinstance(context, dict) or not context.get("path"):
        raise ContextError(f"contexts.{name} needs path, the folder of the build context")
    unknown = sorted(set(context) - CONTEXT_KEYS)
    if unknown:
        raise ContextError(
            f"contexts.{name}.{unknown[0]} is unknown; known: {sorted(CONTEXT_KEYS)}"
        )
    root = Path(context["path"]).expanduser()
    dockerfile = context.get("dockerfile") or "Dockerfile"
    entries = scan(root, dockerfile)
    result = {
        "digest": digest(entries, dockerfile, context.get("args") or {}),
        "files": len(entries),
    }
    archive = context.get("archive")
    if not archive or check_mode:
        return result, bool(archive)
    target = Path(archive).expanduser()
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as stream:
        write_archive(root, entries, stream)
    os.replace(stream.name, target)
    return result, True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if PATHSPEC_ERROR:
        module.fail_json(msg=missing_required_lib("pathspec"), exception=PATHSPEC_ERROR)
    contexts, changed = {}, False
    for name, context in module.params["contexts"].items():
        try:
            contexts[name], archived = read_context(name, context, module.check_mode)
        except (ContextError, OSError) as error:
            module.fail_json(msg=f"build context of {name}: {error}")
        changed = changed or archived
    module.exit_json(changed=changed, contexts=contexts)


if __name__ == "__main__":
    main()
