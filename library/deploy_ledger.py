#!/usr/bin/python
"""Count what happens to tasks and requests while a deploy runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deploy_ledger
short_description: Count what happens to tasks and requests while a deploy runs
description:
  - C(started) starts a one-off container of the release that serves. It sends numbered sentinel
    tasks through every queue and requests through nginx, and goes on while the deploy runs.
  - C(stopped) ends it and tells how many tasks were accepted, finished, lost and run twice, and
    how many requests failed. A sentinel is any task that does nothing, such as the canary.
  - With Redis a sentinel is the next message that its queue's consumer takes. No more than three of
    a queue are unfinished at any time, so that they add nothing to a backlog.
  - Running twice is seen by the states that workers store, so it needs a Redis result backend.
  - While the container starts, the queues can be read (O(known)), which takes as long.
extends_documentation_fragment: [crisper.docker, crisper.project]
options:
  state:
    description: What to make true.
    type: str
    choices: [started, stopped]
    required: true
  project_src:
    description: Folder of the release that serves. Needed with O(state=started).
    type: path
  service:
    description: Service whose image and environment are used.
    type: str
    default: backend
  app:
    description: The Celery application as C(celery -A) takes it.
    type: str
    default: ""
  task:
    description: Name of the sentinel task; it is called without arguments.
    type: str
    default: ""
  queues:
    description: Queues the sentinels go through.
    type: list
    elements: str
    default: []
  known:
    description: Tasks that the next release knows. When given, the names of all that waits are
      compared with them.
    type: list
    elements: str
    default: []
  path:
    description: Path that is asked for at nginx.
    type: str
    default: /
  site_host:
    description: Host header of the requests; empty asks for the service C(nginx).
    type: str
    default: ""
  site_scheme:
    description: Scheme that browsers use, sent as C(X-Forwarded-Proto); nginx believes it on
      its internal port.
    type: str
    default: http
  expected:
    description: Statuses that are no failure, besides those of the first answers, which come before
      the deploy changes anything. Every other status is one.
    type: list
    elements: int
    default: [200]
  tls_folder:
    description:
      - Folder with the certificate that nginx shows, if the release that serves has TLS. Where
        nginx redirects to HTTPS, requests follow, and it must answer by the name in the redirect.
    type: path
  certificates:
    description: Certificates (PEM) that it may show besides, such as one that the deploy brings.
    type: str
    default: ""
  task_interval:
    description: Seconds between two sentinels of one queue.
    type: float
    default: 0.5
  request_interval:
    description: Seconds between two requests, whether the one before was answered or not.
    type: float
    default: 0.1
  wait:
    description: Seconds that sentinels which are not found are waited for at the end. Those that
      wait in a queue are not, and those of a busy worker only while its tasks end.
    type: float
    default: 20
  limit:
    description: Seconds after which it ends by itself.
    type: int
    default: 7200
  python:
    description: The Python interpreter in the container.
    type: str
    default: python
attributes:
  check_mode:
    description: Does nothing in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Start to count tasks and requests
  deploy_ledger:
    state: started
    project: crisper
    project_src: /opt/crisper/current
    app: backend.celery_app
    task: health_check
    queues: [default, embeddings]
    path: /health
"""

RETURN = r"""
all_known:
  description: Whether every task that waits is one of O(known), and waits in one of O(queues).
    M(celery_skew) tells what is not so, and judges; false too where the queues could not be read.
  returned: with O(state=started)
  type: bool
  sample: true
reading:
  description: What was read of the queues, as M(celery_skew) takes it; empty where nothing was.
  returned: with O(state=started)
  type: dict
  sample: {waiting: {default: {health_check: 1}}, unreadable: {}, partial: {}, unlisted: false}
silent:
  description: Why the container that serves gave no answer; empty where it did or was not asked.
  returned: with O(state=started)
  type: str
  sample: ""
ledger:
  description: What M(release) takes to end it as O(state=stopped) does.
  returned: with O(state=started)
  type: dict
  sample: {name: crisper-ledger, wait: 20.0}
tasks:
  description:
    - Numbers of sentinels. C(refused) by the broker (the sender knew), C(waiting) in a queue
      (removed at the end) or held by a busy worker, C(lost) without a trace, C(twice) started or
      finished more than once.
  returned: with O(state=stopped)
  type: dict
  sample: {accepted: 120, refused: 0, finished: 120, failed: 0, waiting: 0, lost: 0, twice: 0}
requests:
  description: Numbers of requests; C(errors) by kind, C(normal) are the statuses that are none.
  returned: with O(state=stopped)
  type: dict
  sample: {probed: 1154, failed: 393, errors: {"HTTP 400": 393}, normal: [200]}
error:
  description: Why there are no numbers of tasks; empty otherwise.
  returned: with O(state=stopped)
  type: str
  sample: ""
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.ledger.end import end
from ansible_collections.crisper.stack.plugins.module_utils.output import quote_last_lines
from ansible_collections.crisper.stack.plugins.module_utils.probes import ledger as ledger_probe
from ansible_collections.crisper.stack.plugins.module_utils.probes import skew as skew_probe
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate import blocks
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate_files import installed
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import MANIFEST
from ansible_collections.crisper.stack.plugins.module_utils.release.model import read_model
from ansible_collections.crisper.stack.plugins.module_utils.remote.run import (
    RemoteError,
    program,
    run,
)
from ansible_collections.crisper.stack.plugins.module_utils.rollout.distrust import (
    hurried,
    no_answer,
)
from ansible_collections.crisper.stack.plugins.module_utils.shapes import EACH, like

ARGUMENT_SPEC: dict[str, Any] = {
    "state": {"type": "str", "choices": ["started", "stopped"], "required": True},
    "project": {"type": "str", "required": True},
    "project_src": {"type": "path"},
    "service": {"type": "str", "default": "backend"},
    "app": {"type": "str", "default": ""},
    "task": {"type": "str", "default": ""},
    "queues": {"type": "list", "elements": "str", "default": []},
    "known": {"type": "list", "elements": "str", "default": []},
    "path": {"type": "str", "default": "/"},
    "site_host": {"type": "str", "default": ""},
    "site_scheme": {"type": "str", "default": "http"},
    "expected": {"type": "list", "elements": "int", "default": [200]},
    "tls_folder": {"type": "path"},
    "certificates": {"type": "str", "default": ""},
    "task_interval": {"type": "float", "default": 0.5},
    "request_interval": {"type": "float", "default": 0.1},
    "wait": {"type": "float", "default": 20},
    "limit": {"type": "int", "default": 7200},
    "python": {"type": "str", "default": "python"},
    "docker_cli": {"type": "str", "default": "docker"},
}


# Seconds to read the queues. What was read within `budget` is judged by celery_skew.
READING = {"timeout": 20, "broker_timeout": 5.0, "import_timeout": 60, "budget": 10.0}
# What the container answers, whatever it is; without an answer there is a problem.
ANSWER: dict[str, Any] = {
    "problem": "malformed_reply",
    "unknown": {EACH: 0},
    "waiting": {EACH: {EACH: 0}},
    "orphaned": {EACH: 0},
    "unreadable": {EACH: 0},
    "partial": {EACH: {"read": 0, "of": 0}},
    "unlisted": False,
}
UNREAD: dict[str, Any] = {"all_known": False, "reading": {}, "silent": ""}


def docker(module: AnsibleModule, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a Docker command."""
    answer: tuple[int, str, str] = module.run_command([module.params["docker_cli"], *arguments])
    return answer


def serving(params: dict[str, Any]) -> dict[str, Any]:
    """Return the model of the release that serves."""
    manifest = json.loads((Path(params["project_src"]) / MANIFEST).read_text())
    return read_model(manifest)


def installed_certificates(params: dict[str, Any], entry: dict[str, Any]) -> str:
    """Return the certificates (PEM) that nginx shows now; empty without TLS."""
    if not params["tls_folder"] or not entry.get("tls"):
        return ""
    return "".join(blocks(installed(Path(params["tls_folder"])))[0])


def port(entry: dict[str, Any]) -> int:
    """Return the port of nginx that is asked.

    The internal one believes the site's scheme, and needs no PROXY protocol. With TLS of nginx's
    own requests come in as those of browsers do; a release of before has no other port.
    """
    internal = entry.get("internal_port")
    return int(internal) if internal and (not entry["tls"] or entry["proxy_protocol"]) else 8080


def read_queues(params: dict[str, Any], container: str) -> dict[str, Any]:
    """Return what waits, as a container of the release that serves reads it.

    ``{all_known, reading, silent}``, `reading` as M(celery_skew) takes it: nobody reads the queues
    twice. `silent` says why it gave no answer: it may be broken, and is about to be replaced.
    """
    command = [params["docker_cli"], "exec", "--interactive", container, params["python"], "-"]
    request = {name: params[name] for name in ("app", "queues", "known")}
    try:
        quick, limit = hurried({**request, **READING, "known_only": True}, READING["timeout"])
        reply = run(command, skew_probe, quick, limit)
    except RemoteError as error:
        return {**UNREAD, "silent": str(error)}
    reply = like(reply, ANSWER)
    if reply["problem"]:
        return UNREAD
    concerns = ("unknown", "orphaned", "unreadable", "partial", "unlisted")
    reading = {key: reply[key] for key in ("waiting", "unreadable", "partial", "unlisted")}
    all_known = not any(reply[key] for key in concerns)
    return {"all_known": all_known, "reading": reading, "silent": ""}


def start(module: AnsibleModule, name: str) -> dict[str, Any]:
    """Start the container and read the queues meanwhile."""
    params = module.params
    # The application may have another name in the next release.
    params["app"] = (serving(params).get("celery") or {}).get("app") or params["app"]
    container = ""
    if params["known"]:
        container, _problem = DockerClient(module, params["project"]).find_running(
            params["service"]
        )
    with ThreadPoolExecutor(1) as pool:
        known = pool.submit(read_queues, params, container) if container else None
        trouble = begin(module, name)
        answer = known.result() if known else UNREAD
    if answer["silent"]:
        module.warn(no_answer(container, answer["silent"], "The next release reads the queues"))
    if trouble:
        # It runs the release that is about to be replaced, which may be what is broken.
        module.warn(f"Tasks and requests are not counted: the ledger did not start: {trouble}")
        return {"changed": False, **answer}
    return {"changed": False, **answer, "ledger": {"name": name, "wait": params["wait"]}}


def begin(module: AnsibleModule, name: str) -> str:
    """Start the container, and return why it did not; one of a deploy cut off is replaced."""
    params = module.params
    # It takes its sentinels back as soon as it is told to end.
    docker(module, "stop", "--time", "5", name)
    docker(module, "rm", "--force", name)
    keys = ("app", "task", "queues", "path", "task_interval", "request_interval", "wait", "limit")
    site = ("site_host", "site_scheme", "expected")
    request = {key: params[key] for key in (*keys, *site)}
    entry = serving(params).get("proxy") or {}
    request["certificates"] = installed_certificates(params, entry) + params["certificates"]
    # Ids of an earlier deploy's sentinels may still be around.
    run = f"{int(time.time())}-{uuid4().hex[:8]}"  # other hosts send through the same broker
    request.update(run=run, host="nginx", port=port(entry), secure_port=8443)
    command = ["compose", "--project-name", params["project"], "run", "--detach", "--no-deps"]
    command += ["--name", name, params["service"], params["python"], "-c"]
    code, out, err = module.run_command(
        [params["docker_cli"], *command, program(ledger_probe, request)], cwd=params["project_src"]
    )
    return quote_last_lines(err or out, 5) or f"exit code {code}" if code != 0 else ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[("state", "started", ["project_src"])],
        supports_check_mode=True,
    )
    name = f"{module.params['project']}-ledger"
    if module.check_mode:
        module.exit_json(changed=False)
    if module.params["state"] == "started":
        module.exit_json(**start(module, name))
    counted = end(lambda *command: docker(module, *command), name, module.params["wait"])
    module.exit_json(changed=False, **counted)


if __name__ == "__main__":
    main()
