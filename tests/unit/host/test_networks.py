"""Networks of a stack: who shares which, and what the engine and Compose make of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.host import networks
from engine_records import DATA, container, network
from rendering import Inventory

ROOT = Path(__file__).resolve().parents[3]
LOCAL = (ROOT / "inventories/local/group_vars/all/stack.yml").read_text()


def test_bridges_are_read_of_any_engine() -> None:
    named = network("egress", 3, gateway="172.23.0.1/16")
    named["Options"] = {networks.BRIDGE_NAME: "stack0"}
    host = {"Name": "host", "Id": "9" * 64, "Driver": "host"}
    none = network("data", 2, internal=True, gateway="")
    data, egress = networks.parse_networks([named, host, none])
    assert (egress.interface, egress.gateways, egress.reaches_out) == (
        "stack0",
        ("172.23.0.1",),
        True,
    )
    assert (data.interface, data.gateways, data.reaches_out) == (DATA, ("172.22.0.1",), False)


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    return yaml.safe_load(Inventory(LOCAL).files()["docker-compose.prod.yml"])


def names(service: dict[str, Any]) -> set[str]:
    return set(service["networks"])


def test_services_share_networks_with_those_only_that_they_need(composed: dict[str, Any]) -> None:
    services = composed["services"]
    assert names(services["nginx"]) == {"clients", "edge", "frontend"}
    assert names(services["frontend"]) == {"frontend"}
    assert names(services["backend"]) == {"edge", "data", "egress"}
    assert names(services["celery-worker"]) == {"data", "egress"}
    for service in ("celery-beat", "postgres", "redis", "qdrant"):
        assert names(services[service]) == {"data"}
    internal = {key for key, value in composed["networks"].items() if value.get("internal")}
    assert internal == {"data", "frontend"}
    alone = {name for name in services if "clients" in names(services[name])}
    assert alone == {"nginx"}, "the firewall lets nothing out of this network"


def test_clients_come_in_by_the_network_of_nginx_alone() -> None:
    """The engine takes the first network by name that is not internal for a container's way out."""
    assert min("clients", "edge") == networks.CLIENTS


def test_networks_of_stacks_that_run_keep_their_definition(composed: dict[str, Any]) -> None:
    """Compose makes a network anew that is defined otherwise, and takes it away from what runs."""
    labels = {"labels": {"crisper.stack": composed["name"]}}
    assert composed["networks"]["edge"] == composed["networks"]["egress"] == labels
    assert composed["networks"]["data"] == {"internal": True, **labels}


def test_missing_networks_are_made_as_compose_knows_them(composed: dict[str, Any]) -> None:
    existing = ["demo_edge", "demo_egress", "demo_data", "bridge"]
    made = dict(networks.networks_to_create(composed["networks"], "demo", existing))
    assert made.keys() == {"demo_clients", "demo_frontend"}
    label = f"crisper.stack={composed['name']}"
    common = ["--label", f"{networks.PROJECT}=demo", "--label"]
    assert made["demo_clients"] == [*common, f"{networks.NETWORK}=clients", "--label", label]
    assert made["demo_frontend"][-1] == "--internal"
    other = {"own": {"external": True}, "named": {"name": "x"}, "plain": None}
    assert [n for n, _ in networks.networks_to_create(other, "demo", [])] == ["demo_plain"]


def test_an_nginx_of_before_joins_the_network_of_the_frontend() -> None:
    before = container("nginx", edge=["nginx"])
    webs = [
        container("backend", "r2", data=["backend"], edge=["backend", "backend-r2"]),
        container("frontend", "r2", frontend=["frontend", "frontend-r2"]),
    ]
    assert networks.networks_to_join(before, webs, "r2") == ["demo_frontend"]
    now = container("nginx", clients=None, edge=None, frontend=None)
    assert networks.networks_to_join(now, webs, "r2") == []
    old = [container("frontend", "r1", edge=["frontend", "frontend-r1"])]
    assert networks.networks_to_join(now, old, "r1") == [], "a rollback"
    assert networks.networks_to_join(before, [{}, {"NetworkSettings": None}], "r2") == []
