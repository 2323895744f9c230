"""Refuse a call that would do nothing, or not what its operator meant."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_call
type: aggregate
short_description: Refuse unknown tags, missing inventories and plays without hosts
description:
  - Ansible takes C(--tags) that no task has, an inventory that is not there and a play without
    hosts for a success. For C(deploy.yml) and C(playbooks/*.yml) of this repository they are errors
    here, before any server is contacted. Ansible ends with exit code 5.
  - Other playbooks, also those that import these, are not judged. They may add hosts, or include
    tasks with tags, which are not known at the start.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleParserError, ExitCode
from ansible.inventory.data import InventoryData
from ansible.inventory.group import Group
from ansible.inventory.host import Host
from ansible.inventory.manager import InventoryManager
from ansible.playbook import Playbook
from ansible.playbook.block import Block
from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import inventory_loader
from ansible.template import Templar
from ansible.vars.plugins import get_vars_from_inventory_sources

ROOT = Path(__file__).resolve().parents[2]

from ansible_collections.crisper.stack.plugins.module_utils.playbook.call import (
    UNTOUCHED,
    hosts_problem,
    inventory_problem,
    tag_problem,
)
from ansible_collections.crisper.stack.plugins.module_utils.playbook.origin import (
    describe_unreadable,
)


def is_operators_file(name: str) -> bool:
    """Return whether a file is this repository's deploy.yml or one of its playbooks."""
    path = Path(name).resolve()
    return path == ROOT / "deploy.yml" or path.parent == ROOT / "playbooks"


def find_file(play: Any) -> Path:
    """Return the file that a play stands in."""
    return Path(play.get_path().rpartition(":")[0]).resolve()


def is_operators(play: Any) -> bool:
    """Return whether a play is one of this repository's deploy.yml or playbooks."""
    return is_operators_file(str(find_file(play)))


def find_called(plays: Iterable[Any]) -> str:
    """Return the file of these plays as the operator named it; empty when a wrapper imports it."""
    files = {find_file(play) for play in plays}
    called = context.CLIARGS["args"]
    return next((path for path in called if Path(path).resolve() in files), "")


def find_hosts(play: Any, pattern: Any) -> list[str]:
    """Return the names of the hosts that a pattern means, `--limit` included."""
    resolved = play.copy()
    resolved.hosts = pattern
    return play.get_variable_manager().get_vars(play=resolved)["ansible_play_hosts_all"]


def collect_tags(playbook: Playbook) -> set[str]:
    """Return the tags of all tasks of a playbook that are known before it runs."""
    tags: set[str] = set()
    for play in playbook.get_plays():
        tags.update(play.tags)
        lists = [play.pre_tasks, play.tasks, play.post_tasks, play.handlers]
        lists += [role.get_task_blocks() for role in play.roles]
        for task in _tasks(entry for entries in lists for entry in entries):
            tags.update(task.tags)
        for role in play.roles:
            tags.update(getattr(role, "tags", ()))
    return tags


def _tasks(entries: Iterable[Any]) -> Iterator[Any]:
    for entry in entries:
        if isinstance(entry, Block):
            yield from _tasks([*entry.block, *entry.rescue, *entry.always])
        else:
            yield entry


def shorten(path: str) -> str:
    """Return a path as an operator would write it in the current folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def find_yaml_sources(sources: Iterable[str]) -> list[str]:
    """Return the inventory files in YAML of these sources."""
    paths = [Path(source) for source in sources if "," not in source]
    files = [one for path in paths for one in (path.iterdir() if path.is_dir() else [path])]
    return sorted(str(one) for one in files if one.suffix in (".yml", ".yaml") and one.is_file())


def read_yaml_source(path: str, loader: Any) -> None:
    """Read an inventory file as Ansible does, which warns only where the file is wrong.

    Raises:
        AnsibleParserError: the file is no YAML, or no inventory.
    """
    content = loader.load_from_file(path, unsafe=True)
    if isinstance(content, dict) and "plugin" in content:
        return  # settings of an inventory plugin
    inventory_loader.get("yaml").parse(InventoryData(), loader, path, cache=False)


def find_inventories() -> list[str]:
    """Return the inventories of this repository."""
    folders = sorted(path for path in (ROOT / "inventories").iterdir() if path.is_dir())
    return [shorten(str(path)) for path in folders]


class CallbackModule(CallbackBase):
    """Judges the call when a playbook starts; it needs no enabling, so it cannot be forgotten."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "crisper_call"
    CALLBACK_NEEDS_ENABLED = False

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """End Ansible with one message when something is wrong with the call."""
        # A wrapper may add hosts, include tasks with tags, or limit one of several deploys.
        plays = [play for play in playbook.get_plays() if is_operators(play)]
        called = find_called(plays)
        if called and (problem := self._find_problem(playbook, called, plays)):
            self._display.error(problem, wrap_text=False)
            # An exception would become a warning: "callback errors are not supposed to be fatal".
            raise SystemExit(int(ExitCode.INVALID_CLI_OPTION))

    def _find_problem(self, playbook: Any, called: str, plays: list[Any]) -> str:
        problems = [self._tag_problem(playbook, called), self._inventory_problem()]
        problems = [problem for problem in problems if problem]
        # Which hosts there are means nothing when an inventory is missing.
        if not problems:
            try:
                problems = [problem for play in plays if (problem := self._hosts_problem(play))][:1]
            except AnsibleParserError as error:
                # Ansible itself tells neither the file nor the line.
                problems = [f"{describe_unreadable(error)} {UNTOUCHED}"]
        return "\n".join(problems)

    def _tag_problem(self, playbook: Any, called: str) -> str:
        names = {"--tags": "tags", "--skip-tags": "skip_tags"}
        options = {option: set(context.CLIARGS.get(name) or ()) for option, name in names.items()}
        if options == {"--tags": {"all"}, "--skip-tags": set()}:
            return ""
        known = collect_tags(playbook)
        name = shorten(str(Path(called).absolute()))
        for path in context.CLIARGS["args"]:  # several playbooks get the same tags
            if Path(path).resolve() != Path(called).resolve():
                manager = playbook.get_plays()[0].get_variable_manager()
                known |= collect_tags(Playbook.load(path, manager, playbook.get_loader()))
        found = (tag_problem(name, option, tags, known) for option, tags in options.items())
        return "\n".join(problem for problem in found if problem)

    def _inventory_problem(self) -> str:
        sources = context.CLIARGS.get("inventory") or ()
        missing = [shorten(path) for path in sources if "," not in path and not Path(path).exists()]
        return inventory_problem(missing, find_inventories())

    def _hosts_problem(self, play: Any) -> str:
        loader = play.get_loader()
        variables = play.get_variable_manager().get_vars(play=play)
        pattern = Templar(loader=loader, variables=variables).template(play.hosts)
        if pattern and (hosts := find_hosts(play, pattern)):
            # Their group_vars and host_vars; Ansible keeps what it has read.
            entities = [*map(Group, variables["groups"]), *map(Host, hosts)]
            sources = context.CLIARGS.get("inventory") or ()
            get_vars_from_inventory_sources(loader, sources, entities, "task")
            return ""
        for path in find_yaml_sources(context.CLIARGS.get("inventory") or ()):
            try:
                read_yaml_source(path, loader)
            except AnsibleParserError as error:
                return f"{describe_unreadable(error, shorten(path))} {UNTOUCHED}"
        # Read once more, without the limit: only for the message.
        inventory = InventoryManager(loader=loader, sources=context.CLIARGS.get("inventory"))
        limit = context.CLIARGS.get("subset") or ""
        groups = {
            name: len(group.get_hosts())
            for name, group in inventory.groups.items()
            if name not in ("all", "ungrouped")
        }
        return hosts_problem(
            pattern if isinstance(pattern, str) else ",".join(pattern),
            limit,
            [host.name for host in inventory.get_hosts(pattern)],
            groups,
            [shorten(source) for source in context.CLIARGS.get("inventory") or ()],
        )
