"""The same change, deployed in three ways under the same load, on one server in one run.

    python tests/bench/bench_deploy.py [--rate 20] [--tasks-per-second 1] [--longest 20]
        [--rounds 3]

- this deploy (`ansible-playbook deploy.yml`), and its rollback;
- plain `docker compose up --detach --wait`;
- start-first in shell: scale up, wait until healthy, stop the old containers.

Each round has every way once with short tasks only, so that hardly anything is waited for, and
once with a task of `longest` seconds running at any time. The figures are medians of the rounds.
Seconds, requests failed and tasks lost are those that molecule/shared/load.py saw from outside.
The server is the scenario `rollout`'s. Load generator, controller and server share this machine:
nothing else should run on it, and a load that takes the processors for itself measures the load.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVER = "crisper-mol-rollout-trixie"
INVENTORY = ROOT / "molecule/inventory"
WARM, AFTER = 8, 4  # seconds of load before and after each way
REPEATS = 3
PAIRS = 2  # changed deploys with and without kept payloads
ENV = {**os.environ, "CRISPER_LOAD_TEST": "true", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
BIN = Path(sys.executable).parent

PLAIN = """
set -e
rm -rf /opt/plain && cp -a "$(readlink -f /opt/crisper/current)" /opt/plain && cd /opt/plain
echo 'COLOUR="plain"' >> .env.prod
docker compose up --detach --wait
"""
SHELL = """
set -e
cd /opt/plain
echo 'COLOUR="shell"' >> .env.prod
old=$(docker compose ps --quiet backend celery-worker)
docker compose up --detach --no-deps --no-recreate --scale backend=2 --scale celery-worker=2 \
    backend celery-worker
for i in $(seq 120); do
    healthy=$(docker compose ps --format '{{.Health}}' backend celery-worker | grep -cx healthy)
    [ "$healthy" = 4 ] && break
    sleep 0.5
done
docker stop $old >/dev/null && docker rm $old >/dev/null
docker compose up --detach --no-deps --wait celery-beat
"""


def run(*command: str, **options: Any) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, cwd=ROOT, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)[:300]} failed:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return done.stdout


def on_server(script: str) -> str:
    """Output of a shell script on the server."""
    return run("docker", "exec", SERVER, "sh", "-c", script)


def app(colour: str) -> dict[str, Any]:
    """The application with one more variable in its environment."""
    path = ROOT / "inventories/local/group_vars/all/stack.yml"
    text = path.read_text().replace("{{ inventory_dir }}/../..", str(ROOT))
    wanted = yaml.safe_load(text)["stack_app"]
    wanted["environment"].update(COLOUR=colour, LOAD_TEST="true")
    wanted["celery"]["expected_tasks"].append("load_test")
    return wanted


def deploy(*options: str) -> str:
    """This repository's deploy, of the scenario's server."""
    play = [str(BIN / "ansible-playbook"), "deploy.yml", f"--inventory={INVENTORY}"]
    return run(*play, "--extra-vars=stack_hosts=rollout", *options)


def coloured(colour: str) -> list[str]:
    """Extra variables of a change."""
    return ["--extra-vars", json.dumps({"stack_app": app(colour)})]


def manifest() -> dict[str, Any]:
    """Manifest of the current release."""
    return json.loads(on_server("cat /opt/crisper/current/manifest.json"))


def under_load(url: str, load: list[str], act: Any) -> dict[str, Any]:
    """Seconds of `act`, and what the load (options of load.py) saw meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"
        generator = subprocess.Popen(
            [sys.executable, str(ROOT / "molecule/shared/load.py"), url, str(stop), *load],
            stdout=subprocess.PIPE,
            text=True,
        )
        time.sleep(WARM)
        try:
            begun = time.monotonic()
            act()
            seconds = time.monotonic() - begun
            time.sleep(AFTER)
        finally:
            stop.touch()
            output = generator.communicate(timeout=300)[0]
        seen = json.loads(output)
    return {"seconds": round(seconds, 1), **seen}


def timed(act: Any) -> float:
    """Median seconds of some calls."""
    found = []
    for _ in range(REPEATS):
        begun = time.monotonic()
        act()
        found.append(time.monotonic() - begun)
    return statistics.median(found)


def measure_processor(act: Any) -> float:
    """Return the seconds of processor that Ansible and its processes took for a call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    act()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compare_payloads(pairs: int) -> tuple[float, float]:
    """Return the controller's processor (seconds, medians of pairs of changed deploys).

    First with what crisper_payloads keeps, then with that callback switched off.
    """
    kept, anew = [], []
    for number in range(pairs):
        kept.append(measure_processor(lambda n=number: deploy(*coloured(f"kept {n}"))))
        ENV["ANSIBLE_CALLBACKS_ENABLED"] = "crisper_stages"
        try:
            anew.append(measure_processor(lambda n=number: deploy(*coloured(f"anew {n}"))))
        finally:
            del ENV["ANSIBLE_CALLBACKS_ENABLED"]
    return statistics.median(kept), statistics.median(anew)


def ask(url: str, question: str) -> float:
    """Seconds of one answer of /rag/query."""
    body = json.dumps({"query": question, "top_k": 5}).encode()
    request = urllib.request.Request(f"{url}/rag/query", body, {"Content-Type": "application/json"})
    # The stack is this machine's own: no proxy of the environment stands between.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    begun = time.monotonic()
    with direct.open(request, timeout=30) as answer:
        answer.read()
    return time.monotonic() - begun


def retrieval(url: str) -> float:
    """95th percentile of uncached /rag/query (seconds), in the containers' limits."""
    on_server("cd /opt/crisper/current && docker compose exec -T backend python -m backend.seed")
    time.sleep(10)  # the places are embedded
    ask(url, "warm")  # the first question loads the model
    topics = ["palace", "beach", "market", "temple", "궁궐", "시장", "island", "mountain"]
    questions = [f"{topic} number {n}" for n in range(25) for topic in topics]
    with ThreadPoolExecutor(4) as pool:
        took = sorted(pool.map(lambda question: ask(url, question), questions))
    return took[int(len(took) * 0.95)]


def row(name: str, seen: list[dict[str, Any]]) -> None:
    """One line of the table, of all rounds."""
    seconds = statistics.median(each["seconds"] for each in seen)
    spread = f" ({', '.join(str(each['seconds']) for each in seen)})" if len(seen) > 1 else ""
    requests, tasks = (
        {key: sum(each[kind][key] for each in seen) for key in keys}
        for kind, keys in (
            ("requests", ("failed", "sent")),
            ("tasks", ("lost", "twice", "accepted")),
        )
    )
    print(
        f"| {name} | {seconds:.1f} s{spread} | {requests['failed']:,} of {requests['sent']:,}"
        f" | {tasks['lost']} and {tasks['twice']} of {tasks['accepted']} |",
        flush=True,
    )


def main() -> int:
    """Measure, print, and fail on what is not reached."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    parser.add_argument("--tasks-per-second", type=float, default=1)
    parser.add_argument("--longest", type=float, default=20, help="seconds of the longest task")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    load = [f"--rate={arguments.rate}", f"--tasks-per-second={arguments.tasks_per_second}"]
    load += ["--longest=2"]
    molecule = str(BIN / "molecule")
    ENV["PATH"] = f"{BIN}:{ENV['PATH']}"
    run(molecule, "destroy", "-s", "rollout")
    run(molecule, "converge", "-s", "rollout")
    try:
        return measure(load, arguments.longest, arguments.rounds)
    finally:
        run(molecule, "destroy", "-s", "rollout")


def measure(load: list[str], longest: float, rounds: int) -> int:
    """All ways, one after the other, some times."""
    network = json.loads(run("docker", "inspect", SERVER))[0]["NetworkSettings"]["Networks"]
    url = f"http://{network['bridge']['IPAddress']}:8080"
    deploy(*coloured("warm"))  # what is made once is made now
    seen: dict[str, list[dict[str, Any]]] = {}
    waits: dict[str, list[float]] = {}
    loads = {"short tasks": load, "long tasks": [*load, f"--always={longest}"]}
    for number in range(rounds):
        for kind, options in loads.items():

            def see(way: str, act: Any, kind: str = kind, options: list[str] = options) -> None:
                seen.setdefault(f"{way}, {kind}", []).append(under_load(url, options, act))

            change = coloured(f"{kind} {number}")
            see("`deploy.yml`", lambda change=change: deploy(*change))
            waits.setdefault(kind, []).append(manifest()["deploy"]["longest_task"])
            see("`deploy.yml --tags rollback`", lambda: deploy("--tags=rollback"))
            see("`docker compose up --detach --wait`", lambda: on_server(PLAIN))
            see("start-first in shell", lambda: on_server(SHELL))
            deploy(*coloured(f"order {kind} {number}"))  # puts the stack in order again
    print("| way | time | requests failed | tasks lost, run twice |\n|---|---|---|---|")
    for way in sorted(seen, key=lambda way: way.rpartition(", ")[2], reverse=True):
        row(way, seen[way])
    ping = timed(
        lambda: run(str(BIN / "ansible"), "rollout", f"--inventory={INVENTORY}", "-m", "ping")
    )
    last = coloured(f"order long tasks {rounds - 1}")
    unchanged = timed(lambda: deploy(*last))
    kept, anew = compare_payloads(PAIRS)
    print(f"\nprocessor of the controller: {kept:.2f} s; payloads packed anew: {anew:.2f} s")
    p95 = retrieval(url)

    def seconds(way: str, kind: str) -> list[float]:
        return [each["seconds"] for each in seen[f"{way}, {kind}"]]

    ratios = {}
    for kind in loads:
        ours, plain = (
            seconds("`deploy.yml`", kind),
            seconds("`docker compose up --detach --wait`", kind),
        )
        each = [a / (b + wait) for a, b, wait in zip(ours, plain, waits[kind], strict=True)]
        ratios[kind] = statistics.median(each)
    short = "short tasks"
    pairs = zip(
        seconds("`deploy.yml --tags rollback`", short), seconds("`deploy.yml`", short), strict=True
    )
    goals = {
        **{
            f"deploy / (plain + longest task waited for), {kind}": (ratio, 1.5)
            for kind, ratio in ratios.items()
        },
        "p95 of /rag/query, seconds": (p95, 2.0),
        "unchanged / ping": (unchanged / ping, 3.0),
        "rollback / deploy, short tasks": (statistics.median(a / b for a, b in pairs), 1.0),
    }
    print(f"\nlongest tasks waited for: {waits}; unchanged {unchanged:.2f} s, ping {ping:.2f} s\n")
    for name, (ratio, most) in goals.items():
        print(f"{name}: {ratio:.2f} (at most {most})")
    clean = all(
        each["requests"]["failed"] == each["tasks"]["lost"] == each["tasks"]["twice"] == 0
        for way, rows in seen.items()
        if "deploy.yml" in way
        for each in rows
    )
    return int(not clean or any(ratio > most for ratio, most in goals.values()))


if __name__ == "__main__":
    sys.exit(main())
