"""What runs of Ansible and their modules would import, each of them anew: imported once.

The server of processes (ansible_process.py) imports this file, and runs are forked from it. Modules
run in forks of those, so that they find their code in memory too. It is half of a deploy without
servers.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from pathlib import Path

import ansible.cli.playbook
import ansible.executor.playbook_executor  # noqa: F401
import inline_worker  # noqa: F401 (runs use it)
from ansible.plugins import loader

ROOT = Path(__file__).resolve().parents[3]
CODE = ROOT / "module_utils/crisper"
PACKAGE = "ansible_collections.crisper.stack.plugins.module_utils"
# Those of Ansible's own modules that roles use.
MODULES = ("command", "copy", "file", "find", "slurp", "stat", "tempfile")
PLUGINS = (
    loader.action_loader,
    loader.become_loader,
    loader.callback_loader,
    loader.connection_loader,
    loader.filter_loader,
    loader.lookup_loader,
    loader.shell_loader,
    loader.strategy_loader,
    loader.test_loader,
)


def preload() -> None:
    """Import all of it."""
    # The settings stand in the environment by now.
    loader.init_plugin_loader()
    for path in sorted(CODE.rglob("*.py")):
        names = path.relative_to(CODE).with_suffix("").parts
        importlib.import_module(".".join((PACKAGE, *names)).removesuffix(".__init__"))
    for name in MODULES:
        importlib.import_module(f"ansible.modules.{name}")
    for plugins in PLUGINS:
        with contextlib.suppress(StopIteration):
            list(plugins.all(class_only=True))
    # It would copy all variables in depth for each template, a third of a deploy here.
    template = loader.lookup_loader.get("template", class_only=True)
    sys.modules[template.__module__].deepcopy = dict
    stubs = importlib.import_module(
        "ansible_collections.crisper.stubs.plugins.module_utils.stub_module"
    )
    for path in (ROOT / "library").glob("*.py"):
        stubs.real_options(path.stem)
    # What is never collected is not copied by a fork that collects.
    gc.collect()
    gc.freeze()


preload()
