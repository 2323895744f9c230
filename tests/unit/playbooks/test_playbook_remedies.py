"""Commands that a failed run prints are run as they are printed, in the state that printed them."""

from __future__ import annotations

import json
import re
import shlex

from harness import Run, Site, deployed_site

COMMAND = re.compile(
    r"ansible-playbook ((?:deploy|playbooks/\w+)\.yml(?: (?:--tags \w+|-e \w+=\S+))*)"
)


def commands(run: Run) -> list[list[str]]:
    """The commands that a run has printed, as words without the program."""
    return [shlex.split(found) for found in dict.fromkeys(COMMAND.findall(run.text))]


def follow(site: Site, words: list[str]) -> Run:
    """Run a command of a remedy."""
    return site.deploy(*words[1:], playbook=words[0])


def test_the_database_goes_back_as_a_failed_deploy_says() -> None:
    site, _kept = deployed_site("one")
    host, before = site.one, site.one.current
    site.script({"point": "compose_rollout:replace", "do": "fail"})
    host.change(irreversible=True)
    failed = site.deploy(build=2, revision="2").failed("put the database back")
    (words,) = [one for one in commands(failed) if "restore_database=true" in one]
    assert f"release={before}" in words
    site.script()

    follow(site, words).succeeded()

    assert (host.serving, host.current, host.staged, host.lock) == (before, before, "", {})
    assert "database_dump:restored" in host.points, json.dumps(host.points)
