#!/usr/bin/python
"""Tell what the site answers to the proxy that stands in front of nginx."""

from __future__ import annotations

DOCUMENTATION = r"""
module: nginx_probe
short_description: Ask nginx from inside its container, as a proxy in front of it does
description:
  - nginx believes C(X-Forwarded-Proto) from trusted addresses only, and always on its internal
    port, which is not published. So an application that redirects plain HTTP can be asked for its
    real answer, without the proxy or balancer that ends TLS in front.
  - Uses C(curl), as the container's own health check does. Redirects are not followed, proxies are
    not used.
extends_documentation_fragment: [crisper.docker, crisper.project]
options:
  service:
    description: Service of nginx.
    type: str
    default: nginx
  port:
    description: Internal port of nginx.
    type: int
    default: 8081
  paths:
    description: C({path, status}) each; C(status) lists what the path is expected to answer.
    type: list
    elements: dict
    required: true
  headers:
    description: Headers of every request.
    type: dict
    default: {}
  maintenance_pass:
    description: Token that passes the maintenance page, sent as C(X-Crisper-Pass); empty for a
      stack of an older edition, which has none.
    type: str
    default: ""
  retries:
    description: How often all paths are asked for again while one does not answer as expected, a
      second apart.
    type: int
    default: 3
  timeout:
    description: Seconds to wait for an answer.
    type: int
    default: 10
attributes:
  check_mode:
    description: It only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Ask nginx as an outer proxy does
  nginx_probe:
    project: crisper
    paths: [{path: /health, status: [200]}]
    headers: {Host: app.example.com, X-Forwarded-Proto: https}
"""

RETURN = r"""
answers:
  description: What each path gave; C(status) is -1 without an answer, C(msg) tells why then.
  returned: always
  type: list
  elements: dict
  sample:
    - url: http://127.0.0.1:8081/health
      status: 200
      location: ""
      expected: [200]
      ok: true
      msg: ""
      inside: true
"""

import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify import inner_answers
from ansible_collections.crisper.stack.plugins.module_utils.docker.client import DockerClient
from ansible_collections.crisper.stack.plugins.module_utils.process import capture
from ansible_collections.crisper.stack.plugins.module_utils.proxy.maintenance_pass import (
    HEADER,
    header_value,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "project": {"type": "str", "required": True},
    "service": {"type": "str", "default": "nginx"},
    "port": {"type": "int", "default": 8081},
    "paths": {"type": "list", "elements": "dict", "required": True},
    "headers": {"type": "dict", "default": {}},
    "maintenance_pass": {"type": "str", "default": "", "no_log": True},
    "retries": {"type": "int", "default": 3},
    "timeout": {"type": "int", "default": 10},
    "docker_cli": {"type": "str", "default": "docker"},
}
# Bytes of the answers: a status and an address for each path.
MOST = 1 << 20


def curl(params: dict[str, Any]) -> list[str]:
    """Return the command that asks for every path and prints a line for each.

    It reads further headers from standard input: its arguments stand in the list of processes.
    """
    command = [
        "curl",
        "-qsSg",
        "--header",
        "@-",
        "--noproxy",
        "*",
        "--max-time",
        str(params["timeout"]),
    ]
    command += ["--write-out", "%{http_code} %{redirect_url}\\n"]
    for name, value in params["headers"].items():
        command += ["--header", f"{name}: {value}"]
    for entry in params["paths"]:
        command += ["--output", "/dev/null", f"http://127.0.0.1:{params['port']}{entry['path']}"]
    return command


def ask(module: AnsibleModule) -> list[dict[str, Any]]:
    """Return the answers of one round."""
    params = module.params
    container, problem = DockerClient(module, params["project"]).find_running(params["service"])
    out, err = "", problem
    if container:
        command = [params["docker_cli"], "exec", "--interactive", container, *curl(params)]
        header = f"{HEADER}: {header_value(params['maintenance_pass'])}\n"
        # curl keeps the time of each request; this ends a Docker client that hangs.
        limit = params["timeout"] * len(params["paths"]) + 30
        try:
            done = capture(command, header, limit, most=MOST)
            out, err = done.stdout, done.stderr
        except (OSError, subprocess.TimeoutExpired) as error:
            err = str(error)
    answers = inner_answers(params["paths"], f"http://127.0.0.1:{params['port']}", out, err)
    return [{**answer, "inside": True} for answer in answers]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    for remaining in range(module.params["retries"], -1, -1):
        answers = ask(module)
        if remaining == 0 or all(answer["ok"] for answer in answers):
            break
        time.sleep(1)
    module.exit_json(changed=False, answers=answers)


if __name__ == "__main__":
    main()
