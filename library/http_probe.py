#!/usr/bin/python
"""HTTP answers and open ports of a stack, seen from where the module runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: http_probe
short_description: Ask paths of the entry point, and try TCP ports
description:
  - Asks for all paths and connects to all ports at once. To a port nothing is sent.
  - Proxies of the environment are not used, and redirects are not followed - what is asked for is
    the server's own.
  - One call where C(ansible.builtin.uri) needs one for each path; no module of Ansible tells which
    of many ports are open without failing or waiting for one after the other.
options:
  url:
    description: The entry point, without a path.
    type: str
    required: true
  paths:
    description: Paths that are asked for, as texts or as C({path, status}) with a list of statuses.
    type: list
    elements: raw
    default: []
  status:
    description: Statuses that a path without its own is expected to answer.
    type: list
    elements: int
    default: [200]
  redirects_to:
    description: A URL without a path. A redirect from a path of O(url) to the same path there is as
      good as an expected status - the application knows its address, and that this was not it.
    type: str
    default: ""
  headers:
    description: Headers of every request; C(Host) takes the place of that of O(url).
    type: dict
    default: {}
  maintenance_pass:
    description: Token that passes the maintenance page, sent as C(X-Crisper-Pass); empty for a
      stack of an older edition, which has none.
    type: str
    default: ""
  retries:
    description: How often a path that did not answer as expected is asked for again, a second
      apart.
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
  proxy_protocol:
    description: Whether connections begin with the header of the PROXY protocol.
    type: bool
    default: false
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
- name: Test the entry point and data ports
  http_probe:
    url: https://app1.example.com
    connect_to: 192.0.2.10
    certificates: "{{ certificate.trusted }}"
    paths: [/, /health]
    address: app1.example.com
    ports: [5432, 6379, 6333]
  delegate_to: localhost
"""

RETURN = r"""
answers:
  description: What each path gave; C(status) is -1 without an answer, C(msg) tells why then. C(ok)
    tells whether it is one of C(expected), or the redirect of O(redirects_to).
  returned: always
  type: list
  elements: dict
  sample:
    - url: http://app1.example.com/health
      status: 200
      location: ""
      expected: [200]
      ok: true
      msg: ""
      seconds: 0.01
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
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify import leads_to
from ansible_collections.crisper.stack.plugins.module_utils.http import (
    connect,
    get,
    reason,
    trusting,
)
from ansible_collections.crisper.stack.plugins.module_utils.proxy.maintenance_pass import (
    HEADER,
    header_value,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "url": {"type": "str", "required": True},
    "paths": {"type": "list", "elements": "raw", "default": []},
    "status": {"type": "list", "elements": "int", "default": [200]},
    "redirects_to": {"type": "str", "default": ""},
    "headers": {"type": "dict", "default": {}},
    "maintenance_pass": {"type": "str", "default": "", "no_log": True},
    "retries": {"type": "int", "default": 3},
    "connect_to": {"type": "str", "default": ""},
    "certificates": {"type": "str", "default": ""},
    "proxy_protocol": {"type": "bool", "default": False},
    "address": {"type": "str", "default": ""},
    "ports": {"type": "list", "elements": "int", "default": []},
    "timeout": {"type": "float", "default": 10},
    "port_timeout": {"type": "float", "default": 1.0},
}


def own_address() -> str:
    """Return this machine's address on its default route; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): routed, never reached
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def is_open(address: str, port: int, timeout: float) -> bool:
    """Return whether the port accepts a connection."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


def open_connection(params: dict[str, Any]) -> http.client.HTTPConnection:
    """Return a connection to where `url` or `connect_to` says; no proxy stands between.

    Raises:
        OSError: nobody answers, or the certificate is not to be trusted.
    """
    url, timeout = urlsplit(params["url"]), params["timeout"]
    name, proxied = url.hostname or "", params["proxy_protocol"]
    if url.scheme == "http":
        return connect(name, url.port or 80, name, None, timeout, proxied)
    address, context = name, ssl.create_default_context()
    if params["connect_to"]:
        address, context = params["connect_to"], trusting(params["certificates"])
    return connect(address, url.port or 443, name, context, timeout, proxied)


def ask(path: str, expected: list[int], params: dict[str, Any]) -> dict[str, Any]:
    """Return what one request gives; an error status is an answer too."""
    begun = time.monotonic()
    url = params["url"] + path
    status, location, why = -1, "", ""
    try:
        target = urlsplit(params["url"]).path + path
        headers = {**params["headers"], HEADER: header_value(params["maintenance_pass"])}
        status, location = get(open_connection(params), target, headers)
    except (OSError, ValueError, http.client.HTTPException) as error:
        why = reason(error)
    site = params["redirects_to"]
    return {
        "url": url,
        "status": status,
        "location": location,
        "expected": expected,
        "ok": status in expected or bool(site and leads_to(status, location, site + path)),
        "msg": why,
        "seconds": round(time.monotonic() - begun, 3),
    }


def persist(path: Any, params: dict[str, Any]) -> dict[str, Any]:
    """Ask until the answer is as expected or the retries are used up."""
    request = {"path": path} if isinstance(path, str) else path
    expected = [int(status) for status in request.get("status") or params["status"]]
    for retries in range(params["retries"], -1, -1):
        answer = ask(str(request["path"]), expected, params)
        if answer["ok"] or retries == 0:
            break
        time.sleep(1)
    return answer


def probe(params: dict[str, Any]) -> dict[str, Any]:
    """Return the module's result, with `failed` for options that contradict each other."""
    if not params["url"].startswith(("http://", "https://")):
        return {"failed": True, "msg": f"url is {params['url']!r}: give http://… or https://…."}
    if params["connect_to"] and not params["certificates"]:
        message = (
            f"connect_to is {params['connect_to']!r}, but no certificates are given that are to"
            " be trusted there: give them."
        )
        return {"failed": True, "msg": message}
    for path in params["paths"]:
        if not isinstance(path, str) and not (isinstance(path, dict) and "path" in path):
            return {"failed": True, "msg": f"paths holds {path!r}: give a text or path and status."}
    ports = params["ports"]
    address = params["address"] or own_address()
    with ThreadPoolExecutor(max_workers=16) as pool:
        requests = [pool.submit(persist, path, params) for path in params["paths"]]
        attempts = [pool.submit(is_open, address, port, params["port_timeout"]) for port in ports]
        open_ports = [port for port, one in zip(ports, attempts, strict=True) if one.result()]
        answers = [request.result() for request in requests]
    return {"answers": answers, "address": address, "open": open_ports}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    result = probe(module.params)
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
