"""Rules of iptables for what containers of a stack must not reach; pure functions of plain data.

The rules stand in chains of the stack's own in table ``mangle``, before any routing decision.
There neither Docker nor ufw nor firewalld has rules: none of them can accept a packet first, a
restart of the engine moves nothing, and one place sees packets to the host and forwarded ones.
A second chain has what accounts of the host must not reach: they have a route to every container.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .networks import CLIENTS, Bridge

# Link-local addresses and what clouds have their metadata and platform services at.
METADATA = {
    4: ("169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32"),
    6: ("fe80::/10", "fd00:ec2::/32", "fd20:ce::254/128"),
}
PORT = re.compile(r"(?P<port>[0-9]{1,5})(?:/(?P<protocol>tcp|udp))?\Z")
TABLES = {4: "iptables", 6: "ip6tables"}
CHAIN_LENGTH = 28  # of iptables, with the zero at its end


def parse_port(value: Any) -> tuple[int, str]:
    """Return port and protocol of ``443``, ``"443"`` or ``"53/udp"``.

    Raises:
        ValueError: it is none.
    """
    match = PORT.match(str(value)) if isinstance(value, (int, str)) else None
    if isinstance(value, bool) or not match or not 1 <= int(match["port"]) <= 65535:
        raise ValueError(f"{value!r} is no port")
    return int(match["port"]), match["protocol"] or "tcp"


def validate(values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with ``stack_host_ports``, one sentence each, with the remedy."""
    ports = values.get("stack_host_ports") or []
    if isinstance(ports, (str, Mapping)) or not isinstance(ports, Sequence):
        return [f"stack_host_ports is {ports!r}: give a list such as [5432, '53/udp']."]
    found = []
    for index, value in enumerate(ports):
        try:
            parse_port(value)
        except ValueError:
            found.append(
                f"stack_host_ports[{index}] is {value!r}: give a port from 1 to 65535, such as"
                " 5432, or with its protocol '53/udp'."
            )
    return found


def open_ports(
    wanted: Iterable[Any], published: Iterable[Any], bind_address: str
) -> list[tuple[int, str]]:
    """Return the ports of the host that containers may reach, sorted.

    Args:
        wanted: of the operator, see `parse_port`.
        published: those of nginx. Everybody may reach them, and applications ask their own public
            address; not where they are bound to the host's loopback.
        bind_address: the address that they are published on; empty is all.
    """
    ports = [parse_port(value) for value in wanted]
    try:
        private = ipaddress.ip_address(bind_address).is_loopback
    except ValueError:
        private = False
    if not private:
        ports += [parse_port(value) for value in published]
    return sorted(set(ports))


def chain_name(stack: str, prefix: str = "CRISPER") -> str:
    """Return the name of the stack's chain: of 28 characters at most, one for each stack."""
    name = f"{prefix}-{stack}"
    if len(name) <= CHAIN_LENGTH:
        return name
    return f"{name[: CHAIN_LENGTH - 9]}-{hashlib.sha256(stack.encode()).hexdigest()[:8]}"


def hooks(stack: str) -> dict[str, str]:
    """Return the stack's chains, by the chain of the kernel's that leads to each."""
    return {"PREROUTING": chain_name(stack), "OUTPUT": chain_name(stack, "CRISPER-LOCAL")}


def parse_nameservers(text: str) -> list[str]:
    """Return the addresses of a resolv.conf that other hosts could have, without zones."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.ip_address(words[1].partition("%")[0])
        except ValueError:
            continue
        if not address.is_loopback and str(address) not in found:
            found.append(str(address))
    return found


def daemon_nameservers(text: str) -> list[str]:
    """Return ``dns`` of a daemon.json; nothing of a file that the engine would refuse."""
    try:
        addresses = json.loads(text or "{}").get("dns") or []
    except (ValueError, AttributeError):
        return []
    return parse_nameservers("".join(f"nameserver {address}\n" for address in addresses))


def render_rules(
    stack: str,
    bridges: Iterable[Bridge],
    ports: Iterable[tuple[int, str]],
    nameservers: Iterable[str],
    version: int,
) -> str:
    """Return the input of ``iptables-restore --noflush`` (4) or ``ip6tables-restore`` (6).

    New connections only reach the chain (see `render_script`), so that answers pass.

    Args:
        stack: its name.
        bridges: the networks of the stack.
        ports: of the host, that containers on networks with a way out may reach.
        nameservers: of the host. Docker's resolver asks them out of the container, and a cloud's
            own is a metadata address.
        version: 4 or 6.
    """
    servers = [a for a in nameservers if ipaddress.ip_address(a).version == version]
    opened, all_bridges, chains = list(ports), list(bridges), hooks(stack)
    rules = [
        f"-A {chains['PREROUTING']} {line}"
        for bridge in all_bridges
        for line in _rules(bridge, opened, servers, version)
    ]
    rules += _outside_rules(chains, all_bridges, version)
    declared = [f":{chain} - [0:0]" for chain in chains.values()]
    return "\n".join(["*mangle", *declared, *rules, "COMMIT", ""])


def _outside_rules(chains: Mapping[str, str], bridges: Sequence[Bridge], version: int) -> list[str]:
    """Return the rules for what comes to containers from outside of their networks."""
    # From another host with a route to the containers: engines before 28 forward that. Requests to
    # published ports have the host's address here. Behind the rest, which opens ports of the host.
    routed = [
        f"-A {chains['PREROUTING']} ! -i {bridge.interface} -d {subnet} -j DROP"
        for bridge in bridges
        for subnet in bridge.subnets
        if ipaddress.ip_network(subnet).version == version
    ]
    # The engine, its proxies of published ports, and what a deploy does there are root's.
    local = [
        f"-A {chains['OUTPUT']} -o {bridge.interface} -m owner ! --uid-owner 0 -j DROP"
        for bridge in bridges
    ]
    return [*routed, *local]


def _rules(
    bridge: Bridge, ports: Iterable[tuple[int, str]], nameservers: Iterable[str], version: int
) -> list[str]:
    """Return the rules for what comes from one network, in their order."""
    lines = []
    if bridge.reaches_out:
        lines += [
            f"-d {server} -p {protocol} -m {protocol} --dport 53 -j RETURN"
            for server in nameservers
            for protocol in ("udp", "tcp")
        ]
    # Before the open ports: agents of clouds serve metadata at an address of the host itself.
    lines += [f"-d {network} -j DROP" for network in METADATA[version]]
    if bridge.reaches_out:
        lines += [
            f"-p {protocol} -m {protocol} --dport {port} -m addrtype --dst-type LOCAL -j RETURN"
            for port, protocol in ports
        ]
    lines.append("-m addrtype --dst-type LOCAL -j DROP")
    # What listens on the host for everybody on the link, such as mDNS.
    lines.append("-p udp -m addrtype --dst-type MULTICAST -j DROP")
    if version == 4:
        lines.append("-m addrtype --dst-type BROADCAST -j DROP")
    if bridge.key == CLIENTS and not bridge.internal:
        own = [s for s in bridge.subnets if ipaddress.ip_network(s).version == version]
        lines += [f"-d {subnet} -j RETURN" for subnet in own]
        lines.append("-j DROP")
    return [f"-i {bridge.interface} {line}" for line in lines]


def in_force(listing: str, stack: str, rules: str) -> bool:
    """Return whether the chains have as many rules as are wanted, and packets reach them.

    Args:
        listing: of ``iptables -t mangle -S``, which writes rules in its own way.
        stack: its name.
        rules: see `render_rules`.
    """
    lines, wanted = listing.splitlines(), rules.splitlines()
    for hook, chain in hooks(stack).items():
        rule, jump = f"-A {chain} ", f"-A {hook} "
        if sum(line.startswith(rule) for line in lines) != sum(
            line.startswith(rule) for line in wanted
        ):
            return False
        if not any(line.startswith(jump) and line.endswith(f"-j {chain}") for line in lines):
            return False
    return True


def list_command(table: str) -> list[str]:
    """Return the command whose output `in_force` takes; `table` is iptables or ip6tables."""
    return [table, "--wait", "10", "-t", "mangle", "-S"]


def render_script(stack: str, folder: str) -> str:
    """Return a shell script: ``apply`` (again and again without harm) or ``remove``.

    The rules of the chains are exchanged as a whole.
    """
    chains = " ".join(f"{hook}:{chain}" for hook, chain in hooks(stack).items())
    return f"""#!/bin/sh
# Written by Crisper: what containers of the stack must not reach, and accounts of the host not of
# them (docs/SECURITY.md).
#   sh {folder}/firewall.sh apply|remove
set -eu
PATH=/usr/sbin:/sbin:/usr/bin:/bin
new='-m conntrack --ctstate NEW,INVALID -j'
case ${{1:-apply}} in
    apply|remove) ;;
    *) echo "usage: $0 apply|remove" >&2; exit 2 ;;
esac
for version in 4 6; do
    table=iptables
    if [ $version = 6 ]; then
        table=ip6tables
        [ -d /proc/sys/net/ipv6 ] || continue
    fi
    [ "${{1:-apply}}" = remove ] || $table-restore --wait 10 --noflush <{folder}/rules.v$version
    for pair in {chains}; do
        hook=${{pair%%:*}} chain=${{pair#*:}}
        # shellcheck disable=SC2086  # the rule is several words
        if [ "${{1:-apply}}" = apply ]; then
            $table --wait 10 -t mangle -C $hook $new $chain 2>/dev/null ||
                $table --wait 10 -t mangle -I $hook 1 $new $chain
        else
            while $table --wait 10 -t mangle -D $hook $new $chain 2>/dev/null; do :; done
            $table --wait 10 -t mangle -F $chain 2>/dev/null || true
            $table --wait 10 -t mangle -X $chain 2>/dev/null || true
        fi
    done
done
"""


def render_unit(stack: str, folder: str) -> str:
    """Return the systemd unit that has the rules in force before the engine starts.

    The rules name the bridges of networks, which keep their names; they need not be there yet.
    """
    others = "nftables.service netfilter-persistent.service iptables.service firewalld.service"
    return f"""# Written by Crisper.
[Unit]
Description=What containers of the stack {stack} must not reach
RequiresMountsFor={folder}
# No container runs a moment without the rules; what empties all tables has done so before.
Before=docker.service
After={others} ufw.service
PartOf={others}
ReloadPropagatedFrom={others}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {folder}/firewall.sh apply
ExecReload=/bin/sh {folder}/firewall.sh apply

[Install]
WantedBy=multi-user.target docker.service {others}
"""
