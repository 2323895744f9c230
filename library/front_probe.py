#!/usr/bin/python
"""What of a stack answers, seen from where the module runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: front_probe
short_description: Which paths of the front door and which TCP ports answer
description:
  - Asks for all paths and connects to all ports at once. To a port nothing is sent.
  - Proxies of the environment are not used - what is asked for is the server's own.
  - One call where C(ansible.builtin.uri) needs one for each path; no module of Ansible tells which
    of many ports are open without failing or waiting for one after the other.
options:
  url:
    description: The front door, without a path.
    type: str
    required: true
  paths:
    description: Paths that are asked for.
    type: list
    elements: str
    default: []
  headers:
    description: Headers of every request.
    type: dict
    default: {}
  retries:
    description: How often a path that did not answer 200 is asked for again, a second apart.
    type: int
    default: 3
  connect_to:
    description:
      - Host name or address that is connected to instead of that of an https O(url), whose name
        then only the certificate must have. Needs O(certificates).
    type: str
    default: ""
  certificates:
    description: Certificates (PEM) that are trusted then, and no others.
    type: str
    default: ""
  address:
    description: Host name or address for O(ports); empty takes this machine's own address on its
      default route, which is what others reach it by.
    type: str
    default: ""
  ports:
    description: The ports.
    type: list
    elements: int
    default: []
  timeout:
    description: Seconds to wait for an answer of a path.
    type: float
    default: 10
  port_timeout:
    description: Seconds to wait for a port.
    type: float
    default: 1.0
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
- name: The front door and the data ports are tried from here
  front_probe:
    url: https://app1.example.com
    connect_to: 192.0.2.10
    certificates: "{{ front.trusted }}"
    paths: [/, /health]
    address: app1.example.com
    ports: [5432, 6379, 6333]
  delegate_to: localhost
"""

RETURN = r"""
answers:
  description: What each path gave; C(status) is -1 without an answer, C(msg) tells why then.
  returned: always
  type: list
  elements: dict
  sample: [{url: "http://app1.example.com/health", status: 200, msg: "", seconds: 0.01}]
address:
  description: The address whose ports were tried.
  returned: always
  type: str
  sample: 192.0.2.10
open:
  description: Ports that accepted a connection.
  returned: always
  type: list
  elements: int
  sample: [6379]
"""

import http.client
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.crisper_https import connect, trusting

ARGUMENT_SPEC: dict[str, Any] = {
    "url": {"type": "str", "required": True},
    "paths": {"type": "list", "elements": "str", "default": []},
    "headers": {"type": "dict", "default": {}},
    "retries": {"type": "int", "default": 3},
    "connect_to": {"type": "str", "default": ""},
    "certificates": {"type": "str", "default": ""},
    "address": {"type": "str", "default": ""},
    "ports": {"type": "list", "elements": "int", "default": []},
    "timeout": {"type": "float", "default": 10},
    "port_timeout": {"type": "float", "default": 1.0},
}


def own_address() -> str:
    """This machine's address on its default route; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): routed, never reached
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def is_open(address: str, port: int, timeout: float) -> bool:
    """Whether the port accepts a connection."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


class Pinned(urllib.request.HTTPSHandler):
    """HTTPS to one address by the URL's name, trusting given certificates."""

    def __init__(self, address: str, certificates: str) -> None:
        super().__init__()
        self.address, self.context = address, trusting(certificates)

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open the request as urllib does, by a connection of ours."""
        return self.do_open(self.connection, req)

    def connection(self, host: str, timeout: float) -> http.client.HTTPConnection:
        """The connection for the URL's `host` (with its port)."""
        url = urllib.parse.urlsplit(f"//{host}")
        name = url.hostname or ""
        return connect(self.address, url.port or 443, name, self.context, timeout)


def opener(params: dict[str, Any]) -> urllib.request.OpenerDirector:
    """Return what opens URLs; no proxy of the environment stands between."""
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if params["connect_to"]:
        handlers.append(Pinned(params["connect_to"], params["certificates"]))
    return urllib.request.build_opener(*handlers)


def ask(url: str, params: dict[str, Any]) -> dict[str, Any]:
    """One request; an error status is an answer too."""
    begun = time.monotonic()
    status, why = -1, ""
    try:
        request = urllib.request.Request(url, headers=params["headers"])  # noqa: S310 (probe checks)
        with opener(params).open(request, timeout=params["timeout"]) as answer:
            answer.read()
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
        error.close()
    except (OSError, ValueError) as error:
        why = str(error.reason if isinstance(error, urllib.error.URLError) else error)
    return {"url": url, "status": status, "msg": why, "seconds": round(time.monotonic() - begun, 3)}


def persist(url: str, params: dict[str, Any]) -> dict[str, Any]:
    """Ask until the answer is 200 or the retries are used up."""
    for left in range(params["retries"], -1, -1):
        answer = ask(url, params)
        if answer["status"] == 200 or left == 0:
            break
        time.sleep(1)
    return answer


def probe(params: dict[str, Any]) -> dict[str, Any]:
    """The module's result; without `changed`, with `failed` for options that do not fit."""
    if not params["url"].startswith(("http://", "https://")):
        return {"failed": True, "msg": f"url is {params['url']!r}: give http://… or https://…."}
    if params["connect_to"] and not params["certificates"]:
        message = (
            f"connect_to is {params['connect_to']!r}, but no certificates are given that are to"
            " be trusted there: give them."
        )
        return {"failed": True, "msg": message}
    ports = params["ports"]
    address = params["address"] or own_address()
    with ThreadPoolExecutor(max_workers=16) as pool:
        asked = [pool.submit(persist, params["url"] + path, params) for path in params["paths"]]
        tried = [pool.submit(is_open, address, port, params["port_timeout"]) for port in ports]
        found = [port for port, answer in zip(ports, tried, strict=True) if answer.result()]
        answers = [answer.result() for answer in asked]
    return {"answers": answers, "address": address, "open": found}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    result = probe(module.params)
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
