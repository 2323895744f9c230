#!/usr/bin/python
"""The certificate that nginx serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_certificate
short_description: Put the certificate that nginx serves in place, and tell what it is
description:
  - Certificate, chain and key are one file, C(front.pem), that only nginx's user reads and that is
    replaced whole. It belongs to no release, so that a rollback brings no expired one back.
  - Modules of community.crypto make and read certificates, but need a Python package on the
    server and write certificate and key as two files, between which nginx could read both.
extends_documentation_fragment: [crisper]
options:
  path:
    description: The folder of C(front.pem).
    type: path
    required: true
  state:
    description: Whether it is put in place, or only looked at.
    type: str
    choices: [present, info]
    default: info
  source:
    description:
      - C(own) takes O(certificate) and O(key). C(self_signed) makes one and keeps it until it
        expires soon or the names change. C(acme) takes O(certificate_file) and O(key_file), and
        makes a self-signed one until they are there.
    type: str
    choices: [own, self_signed, acme]
  names:
    description: Host names and addresses that it must be for.
    type: list
    elements: str
    default: []
  certificate:
    description: The certificate and its chain, PEM.
    type: str
    default: ""
  key:
    description: Its private key, PEM.
    type: str
    default: ""
  certificate_file:
    description: File on the server with the certificate and its chain.
    type: path
  key_file:
    description: File on the server with the private key.
    type: path
  where:
    description: What O(certificate) is called in messages.
    type: str
    default: certificate
  days:
    description: Days that a certificate made here is valid.
    type: int
    default: 397
  renew_days:
    description:
      - Days before its end at which one made here is made anew, and an own one is warned of (one
        that lives for less than three times as long, in its last third).
    type: int
    default: 30
  warn_days:
    description:
      - Days before its end at which the module warns of a certificate of an ACME client (of one
        that lives for less than six times as long, in its last sixth).
    type: int
    default: 14
  uid:
    description: User that nginx runs as.
    type: int
    default: 101
attributes:
  check_mode:
    description: Judges everything and changes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: Put the certificate in place
  tls_certificate:
    path: /opt/crisper/live/tls
    state: present
    source: self_signed
    names: [app.example.com]
"""

RETURN = r"""
due:
  description: Whether another one than the installed is wanted.
  returned: always
  type: bool
  sample: false
made_here:
  description: Whether it is a self-signed one of this module; in check mode, the one wanted.
  returned: always
  type: bool
  sample: true
names:
  description: What it is for.
  returned: always
  type: list
  elements: str
  sample: [app.example.com]
expires:
  description: UTC date of its end; empty when there is none.
  returned: always
  type: str
  sample: "2027-12-23"
days_left:
  description: Whole days until its end; negative when it has ended, 0 when there is none.
  returned: always
  type: int
  sample: 62
concerns:
  description:
    - What the operator must do about it, one sentence each; also given as warnings. Without
      O(source) none is looked for.
  returned: always
  type: list
  elements: str
  sample: []
trusted:
  description:
    - Certificates (PEM) that may be met while this module's change comes into force, those from
      before and those from now on. Never the key.
  returned: always
  type: str
  sample: "-----BEGIN CERTIFICATE-----..."
"""

import math
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.journal import (
    RUN_SPEC,
    NotOwnerError,
    note,
)
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate import (
    DAY,
    Renewal,
    blocks,
    choose_action,
    day,
    find_concerns,
)
from ansible_collections.crisper.stack.plugins.module_utils.proxy.certificate_files import (
    TlsError,
    install,
    installed,
    pair,
    read,
    self_signed,
)

ARGUMENT_SPEC: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "info"], "default": "info"},
    "source": {"type": "str", "choices": ["own", "self_signed", "acme"]},
    "names": {"type": "list", "elements": "str", "default": []},
    "certificate": {"type": "str", "default": ""},
    "key": {"type": "str", "default": "", "no_log": True},
    "certificate_file": {"type": "path"},
    "key_file": {"type": "path", "no_log": False},
    "where": {"type": "str", "default": "certificate"},
    "days": {"type": "int", "default": 397},
    "renew_days": {"type": "int", "default": 30},
    "warn_days": {"type": "int", "default": 14},
    "uid": {"type": "int", "default": 101},
    "run": RUN_SPEC,
}


def supplied_pair(params: dict[str, Any], now: float) -> str:
    """Return certificate and key that somebody else made, as one PEM text; empty without them.

    Raises:
        TlsError: they are unfit.
    """
    certificate, key, where = params["certificate"], params["key"], params["where"]
    if params["source"] == "acme":
        where = params["certificate_file"]
        if not Path(where).exists():
            return ""  # the ACME client needs a serving nginx first
        certificate = Path(where).read_text()
        try:
            key = Path(params["key_file"]).read_text()
        except OSError as error:
            raise TlsError(f"{error.filename}: {error.strerror}; set stack_tls_key.") from error
    elif params["source"] == "self_signed":
        return ""
    return pair(certificate, key, params["names"], now, where)[0]


def describe(pem: str) -> dict[str, Any]:
    """Return the part of the result that is about a certificate."""
    certificates = blocks(pem)[0]
    if not certificates:
        return {"made_here": False, "names": [], "expires": "", "days_left": 0}
    leaf = read(certificates[0])
    return {
        "made_here": leaf.made_here,
        "names": list(leaf.names),
        "expires": day(leaf.ends),
        "days_left": math.floor((leaf.ends - time.time()) / DAY),
    }


def warn(module: AnsibleModule, pem: str) -> list[str]:
    """Warn of what the operator must do about the installed certificate; return it."""
    params, certificates = module.params, blocks(pem)[0]
    if not certificates or not params["source"]:
        return []
    newer = ""
    if params["source"] == "acme" and Path(params["certificate_file"]).exists():
        newer = "".join(blocks(Path(params["certificate_file"]).read_text())[0][:1])
    renewal = Renewal(
        params["source"],
        params["renew_days"],
        params["warn_days"],
        params["certificate_file"] or "",
    )
    unused = read(newer) if newer and newer != certificates[0] else None
    concerns = find_concerns(read(certificates[0]), renewal, time.time(), unused)
    for concern in concerns:
        module.warn(concern)
    return concerns


def put(module: AnsibleModule, before: str, now: float) -> str:
    """Install what is to be in place, unless it is there or in check mode; return it (PEM).

    In check mode a certificate that would be made is not: the text is empty then.

    Raises:
        TlsError: the supplied certificate cannot be used.
    """
    params = module.params
    pem = supplied_pair(params, now)
    old = read(blocks(before)[0][0]) if before else None
    source, names, renew = params["source"], params["names"], params["renew_days"]
    action = choose_action(source, old, bool(pem), names, now, renew)
    if action == "keep":
        pem = before
    elif action == "make" and module.check_mode:
        return ""
    elif action == "make":
        pem = self_signed(names, params["days"])
    if pem != before and not module.check_mode:
        note(params, "certificate")
        install(Path(params["path"]), pem, params["uid"])
    return pem


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENT_SPEC,
        required_if=[
            ("state", "present", ("source", "names")),
            ("source", "acme", ("certificate_file", "key_file")),
        ],
        supports_check_mode=True,
    )
    try:
        before = installed(Path(module.params["path"]))
        after = before
        if module.params["state"] == "present":
            after = put(module, before, time.time())
        facts = describe(after)
        if not after and module.params["state"] == "present":
            facts.update(made_here=True, names=module.params["names"])
        concerns = warn(module, after)
    except TlsError as error:
        module.fail_json(msg=f"{error} No certificate was changed.")
    except NotOwnerError as error:
        module.fail_json(msg=str(error))
    certificates = [*blocks(before)[0], *blocks(after)[0]]
    due = module.params["state"] == "present" and (after != before or not after)
    facts.update(trusted="".join(dict.fromkeys(certificates)), concerns=concerns)
    module.exit_json(changed=due, due=due, **facts)


if __name__ == "__main__":
    main()
