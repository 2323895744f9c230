"""Keep secrets out of what Ansible prints about itself with ANSIBLE_DEBUG."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_debug
type: aggregate
short_description: Keep secrets out of Ansible's debug messages
description:
  - With C(ANSIBLE_DEBUG=1) Ansible prints what every command and module on a host has printed, and
    the options of every module, also of tasks with C(no_log). Results of modules that make or read
    secrets, and the files of a release, stood there in full.
  - These messages say here how long that was, and nothing of it.
"""


from ansible.plugins.callback import CallbackBase
from ansible_collections.crisper.stack.plugins.module_utils.playbook.debug import install


class CallbackModule(CallbackBase):
    """Acts when it is loaded, which is before the first task; it needs no enabling."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "crisper_debug"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self) -> None:
        super().__init__()
        # Workers are forked from this process later.
        install(type(self._display))
