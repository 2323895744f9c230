"""The firewall of a stack: its rules, whether they are in force, and what is tried."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import stack_firewall
import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.host import firewall, firewall_probe
from ansible_collections.crisper.stack.plugins.module_utils.host.networks import PROJECT
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from engine_records import BRIDGES, CLIENTS, DATA, EGRESS, NETWORKS, container
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD


def rendered(version: int = 4, **given: Any) -> list[str]:
    values = {"bridges": BRIDGES, "ports": [(5432, "tcp")], "nameservers": ["169.254.169.253"]}
    text = firewall.render_rules("demo", version=version, **{**values, **given})
    lines = text.splitlines()
    chains = [":CRISPER-demo - [0:0]", ":CRISPER-LOCAL-demo - [0:0]"]
    assert (lines[0], lines[1:3], lines[-1]) == ("*mangle", chains, "COMMIT")
    own = "-A CRISPER-demo "
    return [line.removeprefix(own) for line in lines[3:-1] if line.startswith(own)]


def verdict(lines: list[str], interface: str, address: str, local: bool, port: int = 80) -> str:
    """What the rules do to a new TCP connection from a network; empty when nothing is said."""
    for line in lines:
        words = line.split()
        options = dict(pairwise(words))
        if (options["-i"] != interface) != line.startswith("! -i"):
            continue
        if options.get("-p", "tcp") != "tcp":
            continue
        if "--dport" in options and int(options["--dport"]) != port:
            continue
        if options.get("--dst-type", "LOCAL") != "LOCAL" or ("--dst-type" in options and not local):
            continue
        if "-d" in options:
            inside = firewall.ipaddress.ip_network(options["-d"])
            if firewall.ipaddress.ip_address(address) not in inside:
                continue
        return options["-j"]
    return ""


@pytest.mark.parametrize(
    ("interface", "address", "local", "port", "wanted"),
    [
        (DATA, "172.22.0.1", True, 22, "DROP"),
        (DATA, "172.22.0.1", True, 5432, "DROP"),  # beat on the internal network reached the host
        (DATA, "172.22.0.7", False, 6379, ""),
        (EGRESS, "172.23.0.1", True, 22, "DROP"),
        (EGRESS, "203.0.113.7", True, 9999, "DROP"),
        (EGRESS, "203.0.113.7", True, 5432, "RETURN"),
        (EGRESS, "169.254.169.254", False, 80, "DROP"),
        (EGRESS, "169.254.169.254", True, 80, "DROP"),
        (EGRESS, "169.254.169.254", True, 5432, "DROP"),  # a cloud's agent on the host
        (EGRESS, "169.254.169.253", False, 53, "RETURN"),  # a cloud's nameserver
        (EGRESS, "169.254.169.253", False, 80, "DROP"),
        (EGRESS, "100.100.100.200", False, 80, "DROP"),
        (EGRESS, "198.51.100.1", False, 443, ""),
        (CLIENTS, "198.51.100.1", False, 443, "DROP"),  # nginx asks nobody outside
        (CLIENTS, "10.0.0.8", False, 5432, "DROP"),
        (CLIENTS, "172.21.0.1", True, 5432, "DROP"),
        # Regression: an engine before 28 forwards what another host sends to a container's address.
        ("eth0", "172.21.0.7", False, 8081, "DROP"),
        ("eth0", "172.23.0.7", False, 8000, "DROP"),
        ("eth0", "203.0.113.7", True, 443, ""),
    ],
)
def test_the_rules_close_the_host_metadata_and_the_way_out_of_nginx(
    interface: str, address: str, local: bool, port: int, wanted: str
) -> None:
    assert verdict(rendered(), interface, address, local, port) == wanted


def test_ipv6_is_closed_alike() -> None:
    lines = rendered(6, nameservers=["169.254.169.253", "fd00:ec2::253"])
    assert verdict(lines, DATA, "fd00::1", True, 22) == "DROP"
    assert verdict(lines, EGRESS, "fd00:ec2::254", False) == "DROP"
    assert verdict(lines, EGRESS, "fe80::1", False) == "DROP"
    assert verdict(lines, EGRESS, "fd00:ec2::253", False, 53) == "RETURN"
    assert verdict(lines, CLIENTS, "2001:db8::1", False) == "DROP"
    assert not [line for line in lines if "169.254" in line or "172.2" in line]


def test_accounts_of_the_host_reach_no_container_by_its_address() -> None:
    """Regression: they could hold every connection of Redis, and pass nginx by."""
    rules = firewall.render_rules("demo", BRIDGES, [(5432, "tcp")], [], 4).splitlines()
    assert [line for line in rules if line.startswith("-A CRISPER-LOCAL-demo ")] == [
        f"-A CRISPER-LOCAL-demo -o {interface} -m owner ! --uid-owner 0 -j DROP"
        for interface in (bridge.interface for bridge in BRIDGES)
    ]


def test_all_that_can_be_opened_is_open_to_web_and_workers_only() -> None:
    lines = rendered(ports=[(53, "udp")])
    assert [line for line in lines if "LOCAL -j RETURN" in line] == [
        f"-i {EGRESS} -p udp -m udp --dport 53 -m addrtype --dst-type LOCAL -j RETURN"
    ]


@pytest.mark.parametrize(
    ("given_ports", "published", "bind", "wanted"),
    [
        ([], [80, 443], "0.0.0.0", [(80, "tcp"), (443, "tcp")]),  # noqa: S104
        ([], [80], "", [(80, "tcp")]),
        (["53/udp", 5432, "5432/tcp"], [8080], "127.0.0.1", [(53, "udp"), (5432, "tcp")]),
        ([], [8080], "::1", []),
    ],
)
def test_what_nginx_publishes_to_everybody_is_open(
    given_ports: list[Any], published: list[Any], bind: str, wanted: list[Any]
) -> None:
    assert firewall.open_ports(given_ports, published, bind) == wanted


@pytest.mark.parametrize(
    "value", [0, 65536, "x", True, None, "53/icmp", "1/tcp\n", "-j ACCEPT", 1.5]
)
def test_what_is_no_port_is_refused_by_name(value: Any) -> None:
    (finding,) = [
        each for each in validate(GOOD | {"stack_host_ports": [22, value]}) if "host" in each
    ]
    assert finding.startswith("stack_host_ports[1] is ")
    assert "give a port from 1 to 65535" in finding


def test_variables_of_another_kind_are_refused() -> None:
    assert "stack_host_ports is '22'" in " ".join(validate(GOOD | {"stack_host_ports": "22"}))
    said = " ".join(validate(GOOD | {"stack_isolation": "no"}))
    assert "stack_isolation is 'no': give true or false" in said


@given(st.one_of(st.text(max_size=12), st.integers(), st.booleans(), st.none(), st.floats()))
def test_a_port_is_a_number_and_a_protocol_or_refused(value: Any) -> None:
    try:
        port, protocol = firewall.parse_port(value)
    except ValueError:
        return
    assert 1 <= port <= 65535
    assert protocol in ("tcp", "udp")


@given(st.lists(st.from_regex(r"[a-z0-9_-]{1,40}", fullmatch=True), min_size=2, unique=True))
def test_every_stack_has_a_chain_of_its_own_that_iptables_takes(names: list[str]) -> None:
    chains = [chain for name in names for chain in firewall.hooks(name).values()]
    assert len(set(chains)) == 2 * len(names)
    assert all(len(chain) <= 28 for chain in chains)


def test_nameservers_are_those_that_containers_would_ask() -> None:
    given = ("127.0.0.53", "10.0.0.2 # own", "fe80::1%eth0", "x")
    text = "search x\n" + "".join(f"nameserver {words}\n" for words in given)
    assert firewall.parse_nameservers(text) == ["10.0.0.2", "fe80::1"]
    assert firewall.daemon_nameservers('{"dns": ["192.0.2.53", "127.0.0.1"]}') == ["192.0.2.53"]
    for broken in ("", "{", "[]", '{"dns": null}'):
        assert firewall.daemon_nameservers(broken) == []


# --- What is tried -----------------------------------------------------------------------------


def test_one_container_of_each_service_is_tried() -> None:
    records = [
        container("celery-beat", "r", data=None),
        container("celery-worker", "r", data=None, egress=None),
        container("celery-worker", "r", data=None, egress=None),
        {**container("redis", data=None), "State": {"Pid": 0}},
    ]
    tries = firewall_probe.attempts(records, BRIDGES, [(80, "tcp")], "203.0.113.7")
    beat, worker = tries[4000 + len("celery-beatr")], tries[4000 + len("celery-workerr")]
    assert len(tries) == 2
    metadata = firewall_probe.METADATA_ADDRESS
    assert [(a.address, a.port) for a in beat] == [("172.22.0.1", 22), metadata]
    addresses = [("172.22.0.1", 22), ("172.23.0.1", 22), ("203.0.113.7", 22), metadata]
    assert [(a.address, a.port) for a in worker] == addresses
    opened = firewall_probe.attempts(records[:1], BRIDGES, [(22, "tcp")], "")
    assert next(iter(opened.values()))[0].port == 9


def test_what_was_reached_is_one_finding_with_the_remedy() -> None:
    reached = [firewall_probe.Attempt("redis", f"172.2{n}.0.1", 22) for n in range(9)]
    reached += [firewall_probe.Attempt("celery-beat", "172.20.0.1", 22)]
    (finding,) = firewall_probe.describe_reached(reached, "demo")
    assert finding.startswith("Containers of celery-beat, redis reach 172.20.0.1:22, 172.21.0.1:22")
    assert "172.25.0.1:22 and 3 more: the host" in finding
    assert "systemctl restart crisper-firewall@demo" in finding
    assert firewall_probe.describe_reached([], "demo") == []


def test_who_refuses_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the network of this process; that of another one is for root."""
    monkeypatch.setattr(firewall_probe, "_inside", lambda _: nullcontext())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            closed = free.getsockname()[1]
        tries = [firewall_probe.Attempt("open", "127.0.0.1", port)]
        tries += [firewall_probe.Attempt("refused", "127.0.0.1", closed)]
        reached = firewall_probe.try_attempts({1: tries})
    assert sorted(each.service for each in reached) == ["open", "refused"]


# --- The module --------------------------------------------------------------------------------

IPTABLES = """#!/bin/sh
cd {folder}; name=$(basename "$0"); echo "$name $*" >>told
case "$name $*" in
    *tables-restore*) cat >"${{name%-restore}}.rules"; exit {refused};;
    *"-C PREROUTING"*) [ -e "$name.jump" ];;
    *"-I PREROUTING"*) touch "$name.jump";;
    *"-D PREROUTING"*) [ -e "$name.jump" ] && rm "$name.jump";;
    *"-C OUTPUT"*) [ -e "$name.local.jump" ];;
    *"-I OUTPUT"*) touch "$name.local.jump";;
    *"-D OUTPUT"*) [ -e "$name.local.jump" ] && rm "$name.local.jump";;
    *"-S"*)
        [ ! -e "$name.jump" ] || echo "-A PREROUTING -j CRISPER-demo"
        [ ! -e "$name.local.jump" ] || echo "-A OUTPUT -j CRISPER-LOCAL-demo"
        [ ! -e "$name.rules" ] || grep '^-A' "$name.rules";;
    *"-X CRISPER"*) rm -f "$name.rules";;
esac
"""
DOCKER = """#!/bin/sh
cd {folder}; echo "docker $*" >>told
case "$1 $2 $3" in
    "network ls --quiet") echo 1 2 3;;
    "network ls --format") echo bridge demo_data;;
    "network inspect "*) cat networks.json;;
esac
"""


def install(folder: Path, refused: int = 0) -> None:
    """Write the commands; iptables refuses all rules with an exit code other than 0."""
    for name in ("iptables", "ip6tables", "iptables-restore", "ip6tables-restore"):
        (folder / name).write_text(IPTABLES.format(folder=folder, refused=refused))
    (folder / "docker").write_text(DOCKER.format(folder=folder))
    for path in folder.iterdir():
        path.chmod(0o755)


COMPOSED = {"networks": {"clients": {}, "data": {"internal": True}, "egress": None}}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose iptables are files in the folder ``bin``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "docker-compose.prod.yml").write_text(yaml.safe_dump(COMPOSED))
    (folder / "networks.json").write_text(json.dumps(NETWORKS))
    install(folder)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    real = stack_firewall.render_script
    path = "PATH=/usr/sbin:/sbin:/usr/bin:/bin"
    monkeypatch.setattr(
        stack_firewall,
        "render_script",
        lambda *words: real(*words).replace(path, f"PATH={folder}:/usr/bin:/bin"),
    )
    monkeypatch.setattr(stack_firewall.Firewall, "enable", lambda _: False)
    monkeypatch.setattr(stack_firewall, "UNITS", tmp_path / "units")
    return folder


@pytest.fixture
def apply(host: Path, tmp_path: Path, run_module: Any) -> Any:
    def run(state: str = "present", **given: Any) -> dict[str, Any]:
        root = {"project": "demo", "root": str(tmp_path), "release": str(tmp_path)}
        return run_module(
            stack_firewall, state=state, docker_cli=str(host / "docker"), **root, **given
        )

    return run


def test_rules_are_in_force_before_the_networks_have_a_container(apply: Any, host: Path) -> None:
    answer = apply(host_ports=[5432])
    assert answer["changed"]
    assert answer["created"] == ["demo_clients", "demo_egress"]
    told = (host / "told").read_text()
    assert f"network create --label {PROJECT}=demo" in told
    assert told.index("network create") < told.index("iptables-restore")
    assert "--dport 5432" in (host / "iptables.rules").read_text()
    assert (host / "ip6tables.jump").exists()
    (host / "docker").write_text(
        DOCKER.format(folder=host).replace("bridge demo_data", "demo_clients demo_data demo_egress")
    )
    assert not apply(host_ports=[5432])["changed"], "nothing is to do the second time"
    assert apply(host_ports=[5433])["changed"]
    for jump in (host / "iptables.jump", host / "iptables.local.jump"):
        jump.unlink()
        assert apply(host_ports=[5433])["changed"], "somebody has removed them"
        assert jump.exists()


def test_check_mode_changes_nothing(apply: Any, host: Path, tmp_path: Path) -> None:
    assert apply(check_mode=True)["changed"]
    assert not (tmp_path / "firewall").exists()
    assert "network create" not in (host / "told").read_text()
    assert "restore" not in (host / "told").read_text()


def test_rules_that_are_refused_end_the_deploy_and_are_not_remembered(
    apply: Any, host: Path, tmp_path: Path
) -> None:
    install(host, refused=1)
    answer = apply()
    assert answer["failed"]
    assert "stack_isolation to false" in answer["msg"]
    assert apply("probed")["tried"] == 0
    assert not (tmp_path / "firewall/rules.v4").exists()


def test_a_host_without_iptables_is_told_what_to_install(
    apply: Any, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AnsibleModule, "get_bin_path", lambda *_: None)
    answer = apply()
    assert answer["failed"]
    assert "apt-get install iptables" in answer["msg"]
    assert "create" not in ((host / "told").read_text() if (host / "told").exists() else "")


def test_rules_are_removed_without_a_trace(apply: Any, host: Path, tmp_path: Path) -> None:
    assert not apply("absent")["changed"]
    apply()
    assert apply("absent")["changed"]
    assert not list(host.glob("*.rules"))
    assert not list(host.glob("*.jump"))
    assert not (tmp_path / "firewall").exists()


def test_the_unit_is_in_force_before_the_engine() -> None:
    unit = firewall.render_unit("demo", "/opt/demo/firewall")
    assert "Before=docker.service\n" in unit
    assert "ExecStart=/bin/sh /opt/demo/firewall/firewall.sh apply\n" in unit
    # What empties all tables when it is reloaded or restarted.
    for line in ("After", "PartOf", "ReloadPropagatedFrom"):
        (value,) = [text for text in unit.splitlines() if text.startswith(f"{line}=")]
        assert {"nftables.service", "firewalld.service"} <= set(value.split("=")[1].split())


def test_the_script_is_a_shell_script() -> None:
    script = firewall.render_script("demo", "/x")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_rules_are_in_force_when_all_are_there_and_packets_reach_them() -> None:
    """As iptables 1.8.11 lists them; what is in its own words is only counted."""
    rules = (
        "*mangle\n-A CRISPER-a -i br-1 -d 169.254.0.0/16 -j DROP\n"
        "-A CRISPER-LOCAL-a -o br-1 -m owner ! --uid-owner 0 -j DROP\nCOMMIT\n"
    )
    jump = "-A PREROUTING -m conntrack --ctstate INVALID,NEW -j CRISPER-a\n"
    rule = "-A CRISPER-a -d 169.254.0.0/16 -i br-1 -j DROP\n"
    local = (
        "-A OUTPUT -m conntrack --ctstate INVALID,NEW -j CRISPER-LOCAL-a\n"
        "-A CRISPER-LOCAL-a -o br-1 -m owner ! --uid-owner 0 -j DROP\n"
    )
    assert firewall.in_force(f"-N CRISPER-a\n{jump}{rule}{local}", "a", rules)
    for listing in (
        *("", rule + local, jump + local, jump + rule + rule + local, jump + rule),
        jump.replace("-a", "-ab") + rule + local,
    ):
        assert not firewall.in_force(listing, "a", rules)
