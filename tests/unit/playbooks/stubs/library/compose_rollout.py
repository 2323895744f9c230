"""Stub: the phases act on the engine's file; each has a point in its middle, ``:<phase>``."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.crisper.stack.plugins.module_utils.controller import orphaned
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import summarize
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    Journal,
    NotOwnerError,
    began_at,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.rollout.plan import (
    CREATE,
    KEEP,
    RECREATE,
    REMOVE,
    ROLLED,
    Container,
    Step,
    decide,
    node_name,
)
from ansible_collections.crisper.stack.plugins.module_utils.rollout.suspects import (
    older_workers,
    replacement_warning,
    suspects,
)
from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import Stub, container


class Rollout(Stub):
    """The phases, as the real module takes them one after the other."""

    def containers(self) -> list[Container]:
        """What the engine has."""
        names = Container.__dataclass_fields__
        with self.world.engine() as engine:
            if not engine["up"]:
                self.fail(msg="`docker ps …` failed: Cannot connect to the Docker daemon")
            return [
                Container(**{k: v for k, v in c.items() if k in names})
                for c in engine["containers"]
            ]

    def steps(self) -> list[Step]:
        """What is to be done."""
        services, release = self.params["services"], self.params["release"]
        return decide(services, self.containers(), release, ())

    def told(self) -> dict[str, Any]:
        """A plan as results show it."""
        found = self.containers()
        nodes: dict[str, list[str]] = {"new": [], "old": []}
        for each in found:
            if each.pool and each.state == "running":
                which = "new" if each.release == self.params["release"] else "old"
                nodes[which].append(node_name(each, self.params["host"]))
        steps = [step.as_dict() for step in self.steps()]
        told = {"steps": steps, "nodes": nodes, "containers": summarize(found)}
        if self.params["live"]:
            with self.world.engine() as engine:
                told["serving"] = engine["serving"]
        return told

    def note(self, step: str) -> None:
        """Write the step into the journal, as the real module does."""
        if orphaned():
            self.fail(msg=f"The controller is gone; step {step} was not begun.")
        try:
            note(self.params, step)
        except NotOwnerError as error:
            self.fail(msg=str(error))

    def add(self, step: Step) -> None:
        """Start the containers of one service."""
        pools = {
            f"celery-{'worker' if name == 'default' else f'worker-{name}'}": name
            for name in self.params["workers"]["expect"]["pools"]
        }
        with self.world.engine() as engine:
            for _ in range(step.replicas - step.ready):
                names = (self.params["project_name"], step.service, self.params["release"])
                made = container(engine, *names, pools.get(step.service, ""))
                if made["pool"]:
                    wanted = self.params["workers"]["expect"]["pools"][made["pool"]]
                    made["concurrency"] = wanted["concurrency"]

    def drop(self, identities: tuple[str, ...]) -> None:
        """Remove containers."""
        with self.world.engine() as engine:
            kept = [c for c in engine["containers"] if c["id"] not in identities]
            engine["containers"] = kept

    def start(self) -> None:
        """New containers beside the old ones; they are removed again when it fails."""
        wanted = [s for s in self.steps() if s.kind in ROLLED and s.action not in (KEEP, REMOVE)]
        if not wanted:
            return
        self.note("start")
        before = {c.id for c in self.containers()}
        for number, step in enumerate(wanted):
            self.add(step)
            if number == 0:
                answer = self.world.point("compose_rollout:start")
                if answer:
                    self.drop(tuple({c.id for c in self.containers()} - before))
                    self.fail(**answer)
        self.result["changed"] = True

    def cancel_consumers(self) -> None:
        """Old workers leave their queues."""
        nodes = self.told()["nodes"]
        self.result |= {"nodes": nodes, "held": []}
        if not nodes["old"]:
            return
        self.note("cancel_consumers")
        with self.world.engine() as engine:
            for each in engine["containers"]:
                if each["pool"] and each["release"] != self.params["release"]:
                    each["consumes"] = False
        self.result["left"] = {
            "queues": {node: ["default"] for node in nodes["old"]},
            "left_at": 1.0,
            "drained": nodes["old"],
            "unfinished": [],
            "scheduled": 0,
            "longest": 0.0,
            "silent": [],
            "findings": [],
        }
        self.result["changed"] = True
        self.point("cancel_consumers")

    def replace(self) -> None:
        """Beat and what belongs to no release, in place."""
        wanted = [s for s in self.steps() if s.kind not in ROLLED]
        wanted = [s for s in wanted if s.action in (CREATE, RECREATE)]
        if not wanted:
            return
        self.note("replace")
        for number, step in enumerate(wanted):
            self.drop(step.old)
            if number == 0:
                self.point("replace")
            self.add(step)
        self.result["changed"] = True

    def stop_old(self) -> None:
        """Requests go to the release, and old containers go."""
        release = self.params["release"]
        with self.world.engine() as engine:
            serving = engine["serving"]
        if serving != release:
            self.note("switch")
            self.point("switch")
            with self.world.engine() as engine:
                engine["serving"] = release
            self.result |= {"changed": True, "serving": release}
        rolled = [s for s in self.steps() if s.action == REMOVE or s.kind in ROLLED]
        rolled = [s for s in rolled if s.old]
        if rolled:
            self.note("stop_old")
            if "left" in self.result:
                self.result["left"]["queues"] = {}
            self.drop(rolled[0].old)
            answer = self.world.point("compose_rollout:stop_old")
            for step in rolled[1:]:
                self.drop(step.old)
            self.result |= {"changed": True, "stopped": {step.service: 0 for step in rolled}}
            if answer:  # what was told to stop has stopped by then
                self.fail(**answer)
        self.result["stopped"] = {}
        self.result["after"] = {"release": release, **self.told()}

    def verify(self) -> None:
        """What the workers answer; those of the engine's `hostile` answer nonsense."""
        self.point("verify")
        findings = self.replace_hostile()
        with self.world.engine() as engine:
            held, restarted = engine.get("stranded", 0), engine.get("restarted", False)
        # Of workers without crisper-worker.
        conf = {"task_acks_late": True, "worker_consumer": "celery.worker.consumer:Consumer"}
        nodes = {node: {"conf": conf} for node in self.told()["nodes"]["new"] if restarted}
        self.result["proof"] = {
            "held": held,
            "restarted": time.time() if restarted else None,
            "problem": "malformed_reply" if findings else "",
            "findings": findings,
            "nodes": nodes,
            "canary": {"problem": "", "queues": {}, "findings": []},
        }

    def hostile(self) -> list[dict[str, Any]]:
        """Findings over the workers of the release."""
        with self.world.engine() as engine:
            names = engine.get("hostile", [])
        nodes = [node_name(c, self.params["host"]) for c in self.containers() if c.name in names]
        texts = [(node, f"{node} answered stats with {{'ok': 1}}.") for node in nodes]
        return [
            {"code": "malformed_reply", "node": n, "message": t, "remedy": ""} for n, t in texts
        ]

    def replace_hostile(self) -> list[dict[str, Any]]:
        """Replace what was there before this run; the findings after that."""
        findings, run, release = self.hostile(), self.params["run"], self.params["release"]
        began = began_at(Journal(run["root"], run["id"]).entries(), run["id"])
        older = older_workers(self.containers(), release, began)
        if chosen := suspects(findings, older, self.params["host"]):
            self.module.warn(replacement_warning(chosen, findings, release))
            with self.world.engine() as engine:
                for each in chosen:
                    names = (self.params["project_name"], each.service, release, each.pool)
                    container(engine, *names)
            self.drop(tuple(each.id for each in chosen))
            self.result["after"] = {"release": release, **self.told()}
        return self.hostile()

    def run(self) -> None:
        """All phases that are asked for."""
        self.result |= self.told()
        if self.module.check_mode:
            return
        for phase in ("start", "cancel_consumers", "replace", "stop_old", "verify"):
            if phase in self.params["phases"]:
                getattr(self, phase)()
                if phase == "start":
                    self.result |= {"nodes": self.told()["nodes"]}


if __name__ == "__main__":
    rollout = Rollout("compose_rollout")
    rollout.run()
    rollout.end()
