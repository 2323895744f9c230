"""The judge of a host's fitness, on captured tables of /proc and docker."""

# ruff: noqa: S104  # nothing is bound here, the addresses are data
import dataclasses

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.host import checks as logic
from hypothesis import given
from hypothesis import strategies as st

ROOM = logic.Filesystem("/var/lib/docker", "/", "1", 50 * logic.GB, 1_000_000, 900_000)
FIT = logic.Host(
    os_id="debian",
    os_version="12",
    arch="x86_64",
    python=(3, 11, 2),
    root=True,
    memory_bytes=8 * logic.GB,
    epoch=1000.0,
    filesystems=[ROOM],
)
NEEDS = logic.Needs(
    supported_os={"debian": ["12", "13"], "ubuntu": ["24.04"]},
    supported_arch=["x86_64", "aarch64"],
    stack="crisper",
    memory_bytes=6 * logic.GB,
    ports=[{"port": 80, "address": "0.0.0.0"}],
    controller_epoch=1001.0,
)


def test_a_fit_host_has_no_findings():
    assert logic.judge(FIT, NEEDS) == []


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        ({"os_version": "11"}, "os", ["debian 11", "debian 12, 13; ubuntu 24.04"]),
        ({"os_id": "", "os_version": ""}, "os", ["unknown"]),
        ({"arch": "armv7l"}, "arch", ["armv7l", "x86_64 or aarch64"]),
        ({"python": (3, 7, 3)}, "python", ["3.7.3", "3.8"]),
        ({"root": False}, "privilege", ["root", "stack_become"]),
        (
            {"missing": ["iptables"]},
            "firewall",
            ["iptables is missing", "apt-get install iptables", "stack_isolation to false"],
        ),
        (
            {"filesystems": [dataclasses.replace(ROOM, free_bytes=5 * logic.GB)]},
            "disk",
            ["/var/lib/docker (filesystem /) has 5.0 GB free, 10 GB", "preflight_min_disk_gb"],
        ),
        ({"filesystems": [dataclasses.replace(ROOM, free_inodes=7)]}, "inodes", ["7 inodes"]),
        ({"memory_bytes": 2 * logic.GB}, "memory", ["2.0 GB", "6.0 GB", "celery_workers"]),
        ({"epoch": 0.0}, "clock", ["1001 s behind", "timedatectl"]),
        ({"epoch": 1101.0}, "clock", ["100 s ahead"]),
        (
            {"listeners": [logic.Listener("::", 80, "apache2 (pid 8)")]},
            "port",
            ["0.0.0.0:80", "apache2 (pid 8)", "stack_http_port"],
        ),
        (
            {"listeners": [logic.Listener("0.0.0.0", 80, "x", "shop")]},
            "port",
            ["the stack 'shop'"],
        ),
        (
            {"reaches": [logic.Reach("https://r/v2/", "image_source is 'registry'", "timed out")]},
            "reach",
            ["https://r/v2/", "timed out", "image_source"],
        ),
    ],
)
def test_one_finding_says_what_and_what_to_do(change, check, says):
    findings = logic.judge(dataclasses.replace(FIT, **change), NEEDS)
    assert [(finding.check, finding.severity) for finding in findings] == [(check, "error")]
    text = f"{findings[0].message} -> {findings[0].remedy}"
    for part in says:
        assert part in text


def test_all_findings_come_at_once():
    host = dataclasses.replace(
        FIT,
        os_id="x",
        arch="x",
        python=(3, 6),
        root=False,
        memory_bytes=1,
        epoch=0.0,
        filesystems=[dataclasses.replace(ROOM, free_bytes=0, free_inodes=0)],
        listeners=[logic.Listener("0.0.0.0", 80)],
        reaches=[logic.Reach("https://r/v2/", "", "no")],
    )
    assert [finding.check for finding in logic.judge(host, NEEDS)] == (
        ["os", "arch", "python", "privilege", "disk", "inodes", "memory", "port", "clock", "reach"]
    )


def test_paths_on_one_filesystem_are_one_finding():
    low = dataclasses.replace(ROOM, free_bytes=0)
    other = dataclasses.replace(low, path="/opt/crisper")
    third = dataclasses.replace(low, path="/srv", mount="/srv", device="2")
    host = dataclasses.replace(FIT, filesystems=[low, other, third])
    messages = [finding.message for finding in logic.judge(host, NEEDS)]
    assert len(messages) == 2
    assert messages[0].startswith("/var/lib/docker and /opt/crisper ")
    assert messages[1].startswith("/srv ")


def test_a_filesystem_that_counts_no_inodes_is_fit():
    btrfs = dataclasses.replace(ROOM, total_inodes=0, free_inodes=0)
    assert logic.judge(dataclasses.replace(FIT, filesystems=[btrfs]), NEEDS) == []


@pytest.mark.parametrize(
    "listener",
    [
        logic.Listener("0.0.0.0", 80, "the container crisper-nginx-1", "crisper"),
        logic.Listener("0.0.0.0", 8080, "apache2 (pid 8)"),
    ],
)
def test_a_port_of_this_stack_and_another_port_are_free(listener):
    assert logic.judge(dataclasses.replace(FIT, listeners=[listener]), NEEDS) == []


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "10.0.0.1", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("::1", "0.0.0.0", False),
        ("::1", "127.0.0.1", False),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("[::]", "0.0.0.0", True),
        ("localhost", "10.0.0.1", True),
    ],
)
def test_overlap(one, other, clash):
    assert logic.overlap(one, other) is clash
    assert logic.overlap(other, one) is clash


TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0
   2: 0100007F:1F90 0100007F:A0B2 01 00000000:00000000 00:00000000 00000000     0        0 99 1 0 20
"""
TCP6 = """\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0
   1: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0
   2: 0000000000000000FFFF00000100007F:0CEA 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 14 1 0
"""  # noqa: E501


def test_listening():
    assert logic.listening(TCP) == [("127.0.0.1", 8080, "31337"), ("0.0.0.0", 80, "4711")]
    assert logic.listening(TCP6) == [
        ("::", 22, "12"),
        ("::1", 631, "13"),
        ("127.0.0.1", 3306, "14"),
    ]
    assert logic.listening("") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("5432/tcp", []),
        ("0.0.0.0:80->8080/tcp, :::80->8080/tcp", [("0.0.0.0", 80), ("::", 80)]),
        ("0.0.0.0:80->8080/tcp, [::]:80->8080/tcp", [("0.0.0.0", 80), ("::", 80)]),
        ("127.0.0.1:7000-7002->7000-7002/tcp", [("127.0.0.1", p) for p in (7000, 7001, 7002)]),
        ("0.0.0.0:53->53/udp, 6379/tcp", []),
    ],
)
def test_published(text, expected):
    assert logic.published(text) == expected


@pytest.mark.parametrize(
    ("reference", "registry"),
    [
        ("docker.io/library/redis:8.0", "registry-1.docker.io"),
        ("redis:8.0", "registry-1.docker.io"),
        ("library/redis", "registry-1.docker.io"),
        ("registry.example.com:5000/a/b@sha256:00", "registry.example.com:5000"),
        ("ghcr.io/a/b", "ghcr.io"),
        ("localhost/a", "localhost"),
    ],
)
def test_registry_of(reference, registry):
    assert logic.registry_of(reference) == registry


@given(st.integers(0, 10**13), st.integers(0, 10**13), st.booleans())
def test_memory_is_a_finding_exactly_when_it_is_short(has, needs, root):
    host = dataclasses.replace(FIT, memory_bytes=has, root=root)
    checks = [f.check for f in logic.judge(host, dataclasses.replace(NEEDS, memory_bytes=needs))]
    assert ("memory" in checks) is (needs > has)
    assert ("privilege" in checks) is not root


@given(st.ip_addresses(v=4), st.integers(1, 65535))
def test_proc_tables_are_read_back(address, port):
    line = f"0: {bytes(reversed(address.packed)).hex().upper()}:{port:04X} x 0A 4 5 6 7 8 42 x"
    assert logic.listening("header\n" + line) == [(str(address), port, "42")]
