"""Options that several modules of this repository share."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of shared options."""

    DOCUMENTATION = r"""
options:
  run:
    description:
      - The deploy that acts; its step is written into the journal in C(root) and its lock is kept
        alive. The module fails when another deploy has taken the lock over.
    type: dict
    suboptions:
      root:
        description: Folder of the stack on the server.
        type: path
        required: true
      id:
        description: Id of the deploy, as of the lookup C(crisper_run).
        type: str
        required: true
"""

    LEDGER = r"""
options:
  ledger:
    description: The counting that ends when a release becomes the current one (C(state=current)),
      as M(deploy_ledger) returned it.
    type: dict
    suboptions:
      name:
        description: Its container.
        type: str
        required: true
      wait:
        description: Seconds that sentinels which are not finished are waited for.
        type: float
        default: 20
"""

    FILES = r"""
options:
  files:
    description:
      - The rendered files, each with C(path) (in the release folder), C(content), C(mode), and
        C(owner) (a numeric uid, root when absent).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path in the release folder.
        type: str
        required: true
      content:
        description: The whole text.
        type: str
        required: true
      encoding:
        description: Encoding of O(files[].content).
        type: str
        choices: [text, base64]
        default: text
      mode:
        description: Octal mode as a string.
        type: str
        default: "0644"
      owner:
        description: Numeric uid that owns the file.
        type: int
        default: 0
  secret_files:
    description: Like O(files); the contents never show, in no output and no diff.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path in the release folder.
        type: str
        required: true
      content:
        description: The whole text.
        type: str
        required: true
      encoding:
        description: Encoding of O(secret_files[].content). A short secret as C(text) would mask
          its words in all that the module returns.
        type: str
        choices: [text, base64]
        default: text
      mode:
        description: Octal mode as a string.
        type: str
        default: "0600"
      owner:
        description: Numeric uid that owns the file.
        type: int
        default: 0
"""

    DOCKER = r"""
options:
  docker_cli:
    description: The Docker client.
    type: str
    default: docker
"""

    PROJECT = r"""
options:
  project:
    description: Compose project; the name of the stack.
    type: str
    required: true
"""

    ROOT = r"""
options:
  root:
    description: Folder of the stack on the server, such as V(/opt/crisper).
    type: path
    required: true
"""

    CELERY = r"""
options:
  app:
    description: The Celery application as C(celery -A) takes it.
    type: str
    required: true
  python:
    description: The Python interpreter in the container.
    type: str
    default: python
  import_timeout:
    description: Seconds that importing the application may take.
    type: int
    default: 60
"""

    HOST = r"""
options:
  host:
    description: Name of this host in Celery node names.
    type: str
    default: ""
"""
