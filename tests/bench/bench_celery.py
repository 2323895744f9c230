"""What asking workers costs, as ratios measured in one run:  make bench

1. celery_inspect (the whole module: every method, judged) against nine ``celery inspect`` calls,
   which is what an operator types to learn the same. To reach: 5 times faster.
2. CPU of one health check: the heartbeat file, read by shell built-ins, against
   ``celery inspect ping``. To reach: 50 times less.

Redis and a prefork worker run for real on the loopback; the client named docker only drops
``exec --interactive <container>``, so that both sides are measured without an engine.
``--json FILE`` keeps the figures.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from celery_lab import Lab  # noqa: E402

METHODS = ["ping", "active", "reserved", "scheduled", "registered", "stats", "active_queues"]
METHODS += ["conf", "revoked"]
NODE = "default@host1"


def run(command: list[str], lab: Lab, text: str = "") -> None:
    """Run to a good end, or stop the benchmark: a failed call is no measurement."""
    environment = {**lab.environment(), "PYTHONPATH": str(lab.folder)}
    subprocess.run(
        command,
        input=text,
        cwd=lab.folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )


def module_call(lab: Lab) -> list[str]:
    """Command that runs the module as Ansible does, with its arguments."""
    client = lab.folder / "docker"
    client.write_text('#!/bin/sh\nshift 3\nexec "$@"\n')
    client.chmod(0o755)
    arguments = {
        "container": "worker",
        "app": "lab",
        "python": sys.executable,
        "docker_cli": str(client),
        "expect": {
            "nodes": [NODE],
            "pools": {"default": {"queues": ["default"], "concurrency": 2}},
            "registered": ["health_check"],
            "time_limit": 3600,
            "soft_time_limit": 3300,
        },
    }
    code = (
        "import json, sys\n"
        f"sys.path.insert(0, {str(ROOT / 'library')!r})\n"
        f"sys.path.insert(0, {str(ROOT / 'collections')!r})\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "import celery_inspect\n"
        f"with patch_module_args(json.loads({json.dumps(json.dumps(arguments))})):\n"
        "    celery_inspect.main()\n"
    )
    return [sys.executable, "-c", code]


def bench_inspect(lab: Lab, rounds: int) -> dict[str, float]:
    """Median wall time of both ways, in seconds."""
    command = module_call(lab)
    cli = [sys.executable, "-m", "celery", "-A", "lab", "inspect"]
    module, calls, named = [], [], []
    for _ in range(rounds):
        started = time.perf_counter()
        run(command, lab)
        module.append(time.perf_counter() - started)
        started = time.perf_counter()
        for method in METHODS:
            run([*cli, method, "--json"], lab)
        calls.append(time.perf_counter() - started)
        started = time.perf_counter()
        for method in METHODS:
            run([*cli, method, "--json", "-d", NODE], lab)
        named.append(time.perf_counter() - started)
    one, nine, nine_named = map(statistics.median, (module, calls, named))
    return {
        "celery_inspect_seconds": one,
        "nine_calls_seconds": nine,
        "nine_calls_with_destination_seconds": nine_named,
        "ratio": nine / one,
        "ratio_with_destination": nine_named / one,
    }


def cpu_seconds(command: list[str], lab: Lab, times: int) -> float:
    """CPU of one run, of all processes it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(times):
        run(command, lab)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used / times


def heartbeat_probe(heartbeat: Path) -> str:
    """The health check of the release, as role release renders it, on our file."""
    text = (ROOT / "roles" / "release" / "vars" / "main.yml").read_text()
    found = re.search(r"^release_heartbeat_probe: *>?-?\n?(.*?)(?=^\S|\Z)", text, re.M | re.S)
    if found is None:
        raise RuntimeError("roles/release/vars/main.yml has no release_heartbeat_probe")
    line = " ".join(found.group(1).split()).strip('"')
    return re.sub(r"\{\{.*?\}\}", str(heartbeat), line)


def bench_health(lab: Lab, rounds: int) -> dict[str, float]:
    """CPU per health check of both ways, in seconds."""
    heartbeat = lab.folder / "heartbeat"
    heartbeat.write_text(f"{int(time.clock_gettime(time.CLOCK_BOOTTIME)) + 600} ok\n")
    check = ["/bin/sh", "-c", heartbeat_probe(heartbeat)]
    ping = [sys.executable, "-m", "celery", "-A", "lab", "inspect", "ping", "-d", NODE]
    file_cpu = cpu_seconds(check, lab, rounds * 100)
    ping_cpu = cpu_seconds(ping, lab, rounds * 2)
    return {
        "heartbeat_cpu_seconds": file_cpu,
        "inspect_ping_cpu_seconds": ping_cpu,
        "ratio": ping_cpu / file_cpu,
    }


TO_REACH = {"inspect": 5, "health": 50}


def main() -> int:
    """Run both and print the ratios; 1 when one is not what it has to reach."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Lab(Path(folder)) as lab:
        lab.worker(NODE, "default")
        lab.wait_for(NODE)
        inspect = bench_inspect(lab, options.rounds)
        health = bench_health(lab, options.rounds)
    print(
        "celery_inspect, nine methods, judged: {celery_inspect_seconds:.2f} s\n"
        "nine `celery inspect` calls:          {nine_calls_seconds:.2f} s"
        " ({ratio:.0f}x; to reach: {to_reach}x)\n"
        "  the same with -d <node>:            {nine_calls_with_destination_seconds:.2f} s"
        " ({ratio_with_destination:.1f}x)".format(**inspect, to_reach=TO_REACH["inspect"])
    )
    print(
        f"CPU per heartbeat check:              {health['heartbeat_cpu_seconds'] * 1000:.2f} ms\n"
        f"CPU per `celery inspect ping -d`:     {health['inspect_ping_cpu_seconds'] * 1000:.0f} ms"
        f" ({health['ratio']:.0f}x; to reach: {TO_REACH['health']}x)"
    )
    if options.json:
        options.json.write_text(json.dumps({"inspect": inspect, "health": health}, indent=1))
    reached = inspect["ratio"] >= TO_REACH["inspect"] and health["ratio"] >= TO_REACH["health"]
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
