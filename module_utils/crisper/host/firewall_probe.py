"""Connections that containers of a stack must not get: choose them, try them, describe the result.

They are tried on the server, out of the network namespaces of containers.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .networks import PROJECT, Bridge

# Ports that a probe tries on the host, in this order: one that the operator has not opened.
TRIED_PORTS = (22, 9, 1)
MAX_SHOWN = 6  # addresses in a finding
METADATA_ADDRESS = ("169.254.169.254", 80)
# Seconds that a connection may take to be refused or accepted: all are on this host or its link.
PATIENCE = 0.4
CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class Attempt:
    """A connection that a container must not get."""

    service: str
    address: str
    port: int


def attempts(
    records: Iterable[Mapping[str, Any]],
    bridges: Sequence[Bridge],
    ports: Iterable[tuple[int, str]],
    host_address: str,
) -> dict[int, list[Attempt]]:
    """Return process id of a container of each service -> what it must not be able to do.

    Args:
        records: of ``docker container inspect``.
        bridges: the networks of the stack.
        ports: of the host, that are open.
        host_address: by which the host goes out; empty when it has none.
    """
    allowed = {port for port, protocol in ports if protocol == "tcp"}
    tried = next((port for port in TRIED_PORTS if port not in allowed), 0)
    found: dict[int, list[Attempt]] = {}
    done = set()
    for record in records:
        labels = (record.get("Config") or {}).get("Labels") or {}
        service = str(labels.get("com.docker.compose.service", ""))
        state = record.get("State") or {}
        attached = (record.get("NetworkSettings") or {}).get("Networks") or {}
        kind = (service, tuple(sorted(attached)))
        if not state.get("Pid") or kind in done:
            continue
        done.add(kind)
        project = str(labels.get(PROJECT, ""))
        mine = [bridge for bridge in bridges if f"{project}_{bridge.key}" in attached]
        addresses = [a for bridge in mine for a in bridge.gateways]
        if host_address and not all(bridge.internal for bridge in mine):
            addresses.append(host_address)
        targets = [(address, tried) for address in addresses if tried] + [METADATA_ADDRESS]
        found[int(state["Pid"])] = [Attempt(service, *target) for target in targets]
    return found


def describe_reached(reached: Sequence[Attempt], stack: str) -> list[str]:
    """Return the finding about what containers reached and must not; none where it is nothing."""
    if not reached:
        return []
    services = sorted({each.service for each in reached})
    where = sorted({f"{each.address}:{each.port}" for each in reached})
    more = f" and {len(where) - MAX_SHOWN} more" if len(where) > MAX_SHOWN else ""
    return [
        f"Containers of {', '.join(services)} reach {', '.join(where[:MAX_SHOWN])}{more}: the host"
        " or link-local addresses, which stack_isolation closes. Run"
        f" `systemctl restart crisper-firewall@{stack}` on the server, and find what removed"
        " the rules (`iptables -t mangle -S`)."
    ]


def host_address() -> str:
    """Return the address by which this host goes out; empty without one. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return ""


@contextlib.contextmanager
def _inside(process: int) -> Iterator[None]:
    """Have sockets made in the network namespace of a process; they stay there.

    Raises:
        OSError: the process is gone.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        there = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
        try:
            if libc.setns(there, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            yield
        finally:
            os.close(there)
            libc.setns(home, CLONE_NEWNET)
    finally:
        os.close(home)


def try_attempts(tries: Mapping[int, Sequence[Attempt]]) -> list[Attempt]:
    """Try them and return those that reached something; a refusal comes from what was reached."""
    reached: list[Attempt] = []
    pending: dict[int, tuple[socket.socket, Attempt]] = {}
    for process, wanted in tries.items():
        with contextlib.suppress(OSError), _inside(process):
            for each in wanted:
                family = socket.AF_INET6 if ":" in each.address else socket.AF_INET
                link = socket.socket(family, socket.SOCK_STREAM)
                link.setblocking(False)
                code = link.connect_ex((each.address, each.port))
                if code == errno.EINPROGRESS:
                    pending[link.fileno()] = (link, each)
                    continue
                link.close()
                if code in (0, errno.ECONNREFUSED):
                    reached.append(each)
    return reached + _answered(pending)


def _answered(pending: dict[int, tuple[socket.socket, Attempt]]) -> list[Attempt]:
    """Wait for connections that were begun; return those that reached something, and close all."""
    reached = []
    poll, deadline = select.poll(), time.monotonic() + PATIENCE
    for descriptor in pending:
        poll.register(descriptor, select.POLLOUT)
    while pending and (remaining := deadline - time.monotonic()) > 0:
        for descriptor, _event in poll.poll(remaining * 1000):
            poll.unregister(descriptor)
            link, each = pending.pop(descriptor)
            code = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            link.close()
            if code in (0, errno.ECONNREFUSED):
                reached.append(each)
    for link, _each in pending.values():
        link.close()
    return reached
