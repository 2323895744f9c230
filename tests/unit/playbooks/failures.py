"""Every step of a deploy, and everything that can go wrong with it: the runs and their results."""

from __future__ import annotations

import itertools
import json
import os
import queue
import re
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.journal import last_host
from harness import Host, Run, Site, deployed_site

# Variables of a deploy in which every step has something to do.
WANTED: dict[str, Any] = {
    "x": "2",
    "build": 2,
    "data": 2,
    "revision": "2",
    "docker_log_max_size": "20m",
    "rollout_hooks": {
        "after_switch": [{"name": "warm", "command": ["after-switch"], "timeout": 10}],
    },
}
# Steps that have something to do only with these, besides `x`: a run takes half as long without.
NEEDED = {
    "configure Docker": "docker_log_max_size",
    "provide the images": "build",
    "start the data services": "data",
    "dump the database": "revision",
    "migrate": "revision",
    "run the hook after the switch": "rollout_hooks",
}
# The step's name, and the point of the script at which it goes wrong.
STEPS: dict[str, dict[str, Any]] = {
    "take the lock": {"point": "deploy_begin"},
    "configure Docker": {"point": "docker_daemon_config"},
    "provide the images": {"point": "image_facts"},
    "stage the release": {"point": "release", "with": {"state": "staged"}},
    "start the ledger": {"point": "deploy_ledger", "with": {"state": "started"}},
    "start the data services": {"point": "docker_compose_v2:present"},
    "dump the database": {"point": "database_migrate:dump"},
    "migrate": {"point": "command:migrate"},
    "start the new containers": {"point": "compose_rollout:start"},
    "cancel the old consumers": {"point": "compose_rollout:cancel_consumers"},
    "replace beat": {"point": "compose_rollout:replace"},
    "switch the requests": {"point": "compose_rollout:switch"},
    "stop the old containers": {"point": "compose_rollout:stop_old"},
    "run the hook after the switch": {"point": "command:hook"},
    "verify": {"point": "http_probe"},
    "make it current": {"point": "release", "with": {"state": "current"}},
    "made current, answer lost": {"point": "release:after", "with": {"state": "current"}},
    "give the lock back": {"point": "deploy_journal", "with": {"state": "ended"}},
}
FAILURES = {
    "fail": "the module fails",
    "kill": "the module is killed",
    "controller": "the controller is killed",
    "unreachable": "the host stops answering",
    "second": "a second run meanwhile",
}


def variables(step: str) -> dict[str, Any]:
    """Return the variables of a deploy in which a step has something to do."""
    return {name: WANTED[name] for name in ("x", NEEDED.get(step, "x"))}


# Runs in a process of Ansible itself, on the controller: where that is killed, Ansible ends.
ON_CONTROLLER = "verify"
FAIL = {"answer": {"msg": "scripted: it failed"}}
OLD, NEW, NOTHING = "the old release", "the new release", "nothing"


@dataclass(frozen=True)
class Case:
    """One step that goes wrong in one way; on the host `two` of three."""

    step: str
    failure: str
    hosts: int = 1

    def __str__(self) -> str:
        return f"{self.hosts}-{self.step}-{self.failure}".replace(" ", "_")


@dataclass
class State:
    """What there is on a host, in words that are the same in each run."""

    serving: str
    releases: list[str]
    consuming: list[str]
    current: str
    staged: str
    locked: bool
    cut_off: str
    containers: list[str]
    database: list[str]


@dataclass
class Outcome:
    """What came of a case."""

    case: Case
    text: str = ""
    output: str = ""
    code: int = 0
    before: dict[str, State] = field(default_factory=dict)
    after: dict[str, State] = field(default_factory=dict)
    next_code: int = 0
    next_output: str = ""
    next_after: dict[str, State] = field(default_factory=dict)
    seconds: float = 0.0
    reached: bool = True


def look(host: Host, old: str) -> State:
    """Return what there is on a host; `old` is the release that served before."""

    def named(release: str) -> str:
        return NOTHING if not release else OLD if release == old else NEW

    ended = host.journal[-1] if host.journal else {"step": "end"}
    engine = host.engine
    serving = host.serving
    return State(
        serving="the maintenance page" if serving == "page" else named(serving),
        releases=sorted({named(release) for release in host.releases}),
        consuming=sorted({named(release) for release in host.consuming}),
        current=named(host.current),
        staged=named(host.staged) if host.staged else "",
        locked=bool(host.lock),
        cut_off="" if ended["step"] == "end" else ended["step"],
        containers=sorted(c["id"] for c in engine["containers"] if c["state"] == "running"),
        database=[named(release) for release in engine["database"]],
    )


# What the next run makes of a state: of the same state the same, so each is tried once.
FOLLOWED: dict[str, Future[tuple[int, str, dict[str, State]]]] = {}
FOLLOWED_GUARD = threading.Lock()
VARIABLE = (  # what differs from one run to the next in what a run leaves behind
    (re.compile(r"\d{8}t\d{6}z-\d+\b"), "RUN"),
    (re.compile(r"\b(?:sha256:)?[0-9a-f]{32,64}\b"), "DIGEST"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.+]+"), "TIME"),
    (re.compile(r"\b\d+@\d+\b"), "PROCESS"),
    (re.compile(r"\b\d{10}\.\d+\b"), "MOMENT"),
)
# Of a manifest: seconds that steps took, and sizes.
NOISE = ("deploy", "checksums", "verified", "created", "backup")


def fingerprint(site: Site, old: dict[str, str]) -> str:
    """Return what a next run finds, as text that is the same for the same state."""
    parts: list[Any] = [len(site.hosts)]
    for name, host in site.hosts.items():
        releases = sorted({*(host.root / "releases").iterdir()} if host.root.exists() else ())
        names = {old[name]: "OLD"}
        for path in releases:
            names.setdefault(path.name, f"NEW{len(names)}")
        entries = host.journal
        running = entries[-1:] if entries and entries[-1]["step"] != "end" else []
        mine = [e["step"] for e in entries if running and e["run"] == running[0]["run"]]
        engine = host.engine
        containers = [
            [c[key] for key in ("service", "release", "state", "health", "consumes")]
            for c in engine["containers"]
        ]
        manifests = {}
        for path in releases:
            if (path / "manifest.json").exists():
                manifest = host.manifest(path.name)
                manifests[path.name] = {k: v for k, v in manifest.items() if k not in NOISE}
                manifests[path.name] |= {k: bool(manifest.get(k)) for k in (*NOISE, "failed")}
        files = sorted(
            str(path.relative_to(host.root))
            for path in host.root.rglob("*")
            if path.name not in ("manifest.json",)
        )
        state = [sorted(containers), engine["serving"], engine["database"], engine["ledger"]]
        state += [manifests, files, host.current, host.staged, host.lock, mine]
        state += [bool(last_host(entries)) and last_host(entries)]
        text = json.dumps(state, sort_keys=True)
        for release, word in names.items():
            text = text.replace(release, word)
        for pattern, word in VARIABLE:
            text = pattern.sub(word, text)
        parts.append(text)
    return json.dumps(parts)


class Slot:
    """A site in a folder of its own, and its state after a first deploy.

    The first one of its kind is the one that other tests use, too.
    """

    def __init__(self, folder: Path, hosts: int, first: bool) -> None:
        names = ("one", "two", "three")[:hosts]
        if first:
            self.site, self.kept = deployed_site(*names)
        else:
            self.site, self.kept = Site(folder / "site", names), folder / "kept"
            self.site.deploy().succeeded()
            self.site.keep(self.kept)
        self.old = {name: host.current for name, host in self.site.hosts.items()}
        self.broken = "two" if hosts > 1 else "one"

    def look(self) -> dict[str, State]:
        """What there is on all hosts."""
        return {name: look(host, self.old[name]) for name, host in self.site.hosts.items()}

    def run(self, case: Case) -> Outcome:
        """One deploy that goes wrong, and the next one."""
        self.site.put_back(self.kept)
        outcome = Outcome(case, before=self.look())
        rule = {**STEPS[case.step], "do": case.failure, "host": self.broken}
        self.site.script({**rule, **(FAIL if case.failure == "fail" else {})})
        wanted = variables(case.step)
        run = self.site.deploy(**wanted)
        outcome.reached = rule["point"] in self.site.hosts[self.broken].points
        outcome.code, outcome.output = run.code, run.output
        outcome.text, outcome.seconds = run.text, run.seconds
        for host in self.site.hosts.values():
            host.settle()
        outcome.after = self.look()
        self.site.script()
        self.follow(outcome, wanted)
        return outcome

    def follow(self, outcome: Outcome, wanted: dict[str, Any]) -> None:
        """The same command again, when nothing goes wrong."""
        key = json.dumps(wanted) + fingerprint(self.site, self.old)
        with FOLLOWED_GUARD:
            mine = key not in FOLLOWED
            known = FOLLOWED.setdefault(key, Future())
        if mine:
            try:
                run = self.site.deploy(**wanted)
                known.set_result((run.code, run.output, self.look()))
            except BaseException as error:
                known.set_exception(error)
                raise
        outcome.next_code, outcome.next_output, outcome.next_after = known.result()

    def run_seconds(self, steps: list[str], hosts: int) -> list[Outcome]:
        """One deploy that waits in each step for a second run, which is refused."""
        self.site.put_back(self.kept)
        before, host = self.look(), self.site.hosts[self.broken]
        self.site.script(*({**STEPS[s], "do": "wait", "host": self.broken} for s in steps))
        running, outcomes = self.site.start(**WANTED), []
        for step in steps:
            point = host.wait_for_point(running)
            outcome = Outcome(Case(step, "second", hosts), before=before)
            outcomes.append(outcome)
            if point != STEPS[step]["point"]:
                outcome.reached = False
                continue
            second = self.site.deploy(**WANTED)
            outcome.code, outcome.output = second.code, second.output
            outcome.text, outcome.seconds = second.text, second.seconds
            outcome.after = self.look()
            host.go()
        first: Run = running.wait()
        for outcome in outcomes:
            outcome.next_code, outcome.next_output = first.code, first.output
            outcome.next_after = self.look()
        return outcomes


class Slots:
    """Sites for runs side by side."""

    def __init__(self, folder: Path, hosts: int) -> None:
        self.folder, self.hosts = folder, hosts
        self.free: queue.SimpleQueue[Slot] = queue.SimpleQueue()
        self.numbers = itertools.count(1)

    def take(self) -> Slot:
        """One that nobody uses."""
        try:
            return self.free.get_nowait()
        except queue.Empty:
            number = next(self.numbers)
            folder = self.folder / f"slot-{self.hosts}-{number}"
            folder.mkdir()
            return Slot(folder, self.hosts, number == 1)


def run_cases(cases: list[Case], folder: Path) -> dict[Case, Outcome]:
    """Run them, CRISPER_TEST_PARALLEL or as many as there are processors side by side."""
    slots = {hosts: Slots(folder, hosts) for hosts in {case.hosts for case in cases}}
    single = [case for case in cases if case.failure != "second"]
    outcomes: dict[Case, Outcome] = {}

    def one(case: Case) -> None:
        slot = slots[case.hosts].take()
        outcomes[case] = slot.run(case)
        slots[case.hosts].free.put(slot)

    def seconds(hosts: int) -> None:
        steps = [case.step for case in cases if case.failure == "second" and case.hosts == hosts]
        if steps:
            slot = slots[hosts].take()
            for outcome in slot.run_seconds(steps, hosts):
                outcomes[outcome.case] = outcome
            slots[hosts].free.put(slot)

    beside = int(os.environ.get("CRISPER_TEST_PARALLEL", 0)) or os.cpu_count() or 2
    with ThreadPoolExecutor(beside) as pool:
        waiting = [pool.submit(seconds, hosts) for hosts in slots]
        waiting += [pool.submit(one, case) for case in single]
        for each in waiting:
            each.result()
    shutil.rmtree(folder, ignore_errors=True)
    return outcomes


# --- what was told ---------------------------------------------------------------------------
RELEASE = re.compile(r"\d{8}t\d{6}z-[0-9a-f]{8}")
RUN = re.compile(r"\d{8}t\d{6}z-\d+\b")


def told(outcome: Outcome, host: str) -> str:
    """Return what the run said of the host, without what differs from run to run."""
    failure, text = outcome.case.failure, outcome.text
    if failure == "controller":
        return "nothing"
    if failure == "kill" and outcome.case.step == ON_CONTROLLER:
        return "that a process of Ansible is dead" if "dead state" in text else ""
    if failure == "second":
        found = re.search(r"has had the stack \S+ on \S+ since \S+ and is in step (\w+)", text)
        return f"refused: who has the lock since when, in step `{found[1]}`" if found else ""
    if f"LOST {host} " in text:
        return "the task in which it stopped answering, what is known of it, and what to do"
    parts = re.findall(
        rf"The deploy of \S+ on {host} failed\. What failed: (.*?) What serves: (.*?)"
        r"(?: Requests meanwhile| Tasks meanwhile| The database:| Origin:| fatal:|$)",
        text,
    )
    if not parts:
        return ""
    # How many containers there are is the inventory's matter.
    serves = re.sub(r"all \d+ containers", "all containers", RELEASE.sub("…", parts[0][1]))
    return f"What serves: {serves}"


def went_on(outcome: Outcome, host: str) -> str:
    """Return how the next run went on with what the case left on the host."""
    text = outcome.next_output
    if outcome.case.failure == "second":
        return "the first run ends well" if outcome.next_code == 0 else ""
    part = text.partition(f"SUMMARY {host} ")[2].partition("SUMMARY ")[0]
    found = re.search(r"Picked up \S+, cut off in step (\w+): (\w+)", part)
    if found:
        return f"cut off in step `{found[1]}`: {found[2]}"
    found = re.search(r"Picked up the \w+ \S+, which .*, after step (\w+): (\w+)", part)
    if found:
        return f"not undone, after step `{found[1]}`: {found[2]}"
    if "(unchanged: the same inputs" in part:
        return "nothing to do"
    if "(new; before:" in part:
        return "deploys"
    return "as the current release" if "(unchanged)" in part else ""
