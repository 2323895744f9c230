"""Resources of the entry point: workers, connections, open files, and where bodies lie."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.proxy import resources as entry
from front_files import nginx, rendered
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD

CPUS = st.one_of(st.integers(1, 4096), st.floats(0.01, 4096), st.sampled_from(["0.5", "2"]))


def directive(text: str, name: str) -> str:
    """The only value of a directive."""
    (value,) = re.findall(rf"(?<![\w-]){name} ([^;]+);", text)
    return value


def limits(cpus: Any, memory: str = "256m") -> dict[str, Any]:
    return {**GOOD["stack_limits"], "nginx": {"memory": memory, "cpus": cpus}}


def compose(**values: Any) -> dict[str, Any]:
    return yaml.safe_load(rendered("docker-compose.prod.yml.j2", **values))


@pytest.mark.parametrize(
    ("cpus", "workers"), [(0.1, 2), (0.5, 2), ("0.5", 2), (1.0, 2), (2.0, 2), (2.1, 3), (8, 8)]
)
def test_workers_follow_the_limit_of_the_container(cpus, workers):
    """Regression: `auto` started one for each core of the host, 72 of 128 MB with 64 cores."""
    assert directive(nginx(stack_limits=limits(cpus)), "worker_processes") == str(workers)


@given(cpus=CPUS, megabytes=st.integers(6, 10**6), size=st.integers(0, 2**40))
def test_numbers_agree_for_every_limit(cpus, megabytes, size):
    found = entry.entry_resources({"cpus": cpus, "memory": f"{megabytes}m"}, size)
    assert 2 <= found["workers"] <= 64
    assert found["connections"] >= 512
    # A body's file and an answer's for each connection to the backend, and some for the rest.
    assert found["worker_files"] >= 3 * found["connections"] + 64
    assert found["worker_files"] <= found["open_files"]
    assert entry.MIN_BODIES <= found["bodies"] <= entry.MAX_BODIES


@pytest.mark.parametrize(
    ("memory", "connections"), [("6m", 512), ("128m", 1024), ("256m", 2048), ("4g", 4096)]
)
def test_requests_at_once_fit_into_the_memory(memory, connections):
    text = nginx(stack_limits=limits(0.5, memory))
    assert directive(text, "worker_connections").split()[0] == str(connections)


@given(cpus=CPUS)
def test_idle_workers_of_two_generations_leave_two_thirds_of_the_default_memory(cpus):
    """Old workers stay for up to 60 s beside those of a reload."""
    found = entry.entry_resources({"cpus": cpus, "memory": "256m"}, "10m")
    # Measured: 1.13 MB with 2,048 connections, of which those take 0.83 MB.
    each = 310 * 1024 + 424 * found["connections"]
    assert 2 * found["workers"] * each <= 256 * 1024**2 / 3


@pytest.mark.parametrize(
    ("size", "bytes_"),
    [("10m", 10 * 1024**2), ("1G", 1024**3), ("512k", 512 * 1024), ("7", 7), (0, 0)],
)
def test_sizes_are_those_of_nginx(size, bytes_):
    assert entry.body_bytes(size) == bytes_


@pytest.mark.parametrize("size", ["ten", "10 m", "-1m", "1.5m", ""])
def test_what_is_no_size_is_refused_with_the_value(size):
    with pytest.raises(ValueError, match=re.escape(repr(size))):
        entry.body_bytes(size)


@pytest.mark.parametrize(
    ("size", "bodies"), [("10m", 819), ("300m", 27), ("8g", 16), ("0", 16), ("1k", 2048)]
)
def test_bodies_on_disk_are_bounded_in_number(size, bodies):
    text = nginx(stack_max_body_size=size)
    assert f"limit_conn bodies {bodies};" in text
    # 503 would be answered with the maintenance page.
    assert directive(text, "limit_conn_status") == "429"


def key_of_body(text: str, method: str, length: str, encoding: str) -> str:
    """What nginx's map `$body_on_disk` makes of a request."""
    (lines,) = re.findall(r"\$body_on_disk \{(.*?)\n    \}", text, re.DOTALL)
    for pattern in re.findall(r'"~(.*)" "";', lines):
        if re.search(pattern, f"{method}:{length}:{encoding}"):
            return ""
    return "yes"


@pytest.mark.parametrize(
    ("request_", "counted"),
    [
        (("GET", "", ""), False),
        (("HEAD", "", ""), False),
        (("POST", "0", ""), False),
        (("POST", "9999", ""), False),
        (("POST", "10000", ""), True),
        (("PUT", "10485760", ""), True),
        (("POST", "", "chunked"), True),
        (("GET", "", "chunked"), True),
        (("POST", "", ""), True),  # HTTP/2 needs no length
    ],
)
def test_only_bodies_that_may_reach_the_disk_are_counted(request_, counted):
    text = nginx()
    assert (key_of_body(text, *request_) == "yes") is counted
    kilobytes = int(directive(text, "client_body_buffer_size").removesuffix("k"))
    assert kilobytes * 1024 > 9999


def test_bodies_lie_on_a_volume_and_not_on_a_tmpfs():
    """Regression: a tmpfs counts as memory; one download of 400 MB ended nginx."""
    found = compose()
    service = found["services"]["nginx"]
    (mount,) = [v for v in service["volumes"] if v.startswith("nginx-temp:")]
    folder = mount.split(":")[1]
    assert "nginx-temp" in found["volumes"]
    tmpfs = [each.split(":")[0] for each in service["tmpfs"]]
    for kind in ("client_body", "proxy"):
        path = directive(nginx(), f"{kind}_temp_path")
        assert path.startswith(f"{folder}/")
        assert not any(path.startswith(f"{each}/") for each in tmpfs)
    assert directive(nginx(), "proxy_max_temp_file_size") == "4m"


def test_the_volume_is_the_stacks_own_and_no_service_of_data_has_it():
    model = stack_model(GOOD)
    assert "nginx-temp" in model["volumes"]
    assert "nginx-temp" not in model["services"]
    mounted = {
        name: [volume for volume in service.get("volumes", []) if "nginx-temp" in volume]
        for name, service in compose()["services"].items()
    }
    assert [name for name, volumes in mounted.items() if volumes] == ["nginx"]


@pytest.mark.parametrize("cpus", [0.5, 2, 64])
def test_open_files_are_those_that_nginx_asks_for(cpus):
    """Regression: with an engine's default of 1,024, 388 of 1,400 slow requests got 500."""
    values = {"stack_limits": limits(cpus)}
    config = nginx(**values)
    files = int(directive(config, "worker_rlimit_nofile"))
    connections = int(directive(config, "worker_connections"))
    assert files >= 3 * connections
    nofile = compose(**values)["services"]["nginx"]["ulimits"]["nofile"]
    assert nofile["soft"] == nofile["hard"] >= files


def test_every_service_has_a_limit_of_open_files():
    found = compose(mariadb_enabled=True)
    for name, service in found["services"].items():
        nofile = service["ulimits"]["nofile"]
        assert nofile["soft"] == nofile["hard"], name
        # Redis lowers its maxclients (10,000) with less.
        assert math.inf > nofile["hard"] >= 10_032, name


def test_a_path_with_larger_bodies_counts_where_they_are_buffered():
    limit = {"cpus": 0.5, "memory": "256m"}

    def bodies(*locations: dict[str, Any]) -> int:
        return entry.entry_resources(limit, "10m", locations)["bodies"]

    assert bodies() == bodies({"body_size": "", "request_buffering": True}) == 819
    assert bodies({"body_size": "300m", "request_buffering": True}) == 27
    assert bodies({"body_size": "300m", "request_buffering": False}) == 819
    assert bodies({"body_size": "0", "request_buffering": True}) == 16
