"""What a backlog costs: readers of queues alone, and whole deploys, in one run:  make bench

    python tests/bench/bench_backlog.py [--waiting 0 10000 1000000] [--workers 5 50] [--rounds 3]
        [--only readers|idle|deploys] [--json FILE]

1. Readers: the skew check's probe on a Redis of this machine, by script and in batches, beside
   1,000,000 results, and what a worker would hold; with the longest wait of another client.
2. What asking the workers costs with so many of them: one process answers as all of them.
3. What workers with nothing to do cost, with gossip and without.
4. Deploys of a change (a variable of the application's environment) on a test server, with half of
   the waiting tasks in a queue that the workers consume and half in one that nobody consumes; and
   the status and the plan. To reach: with the most waiting tasks a deploy takes at most 1.2 times
   as long as with none. However many workers there are, five tasks end in a second: tasks use the
   same processors, and what is compared is the deploy, not the application's own work.

The server is a container; load generator, controller and server share this machine. 1,000,000
tasks take 1.1 GB in Redis, which accepts 70 % of its memory: the benchmark sets
`stack_limits.redis.memory` to 3g, as an operator has to who expects so many.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "collections")]
import backlog  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.celery import drain as celery_drain  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.probes import drain as drain_probe  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.probes import inspect as inspect_probe  # noqa: E402
from ansible_collections.crisper.stack.plugins.module_utils.probes import skew as skew_probe  # noqa: E402

SERVER = "crisper-bench-backlog"
INVENTORY = ROOT / "molecule/inventory"
MOST_RATIO = 1.2
RESULTS, HELD = 1_000_000, 100_000
# A task sleeps so long that all workers together end so many in a second, but at least a second.
TASKS_PER_SECOND, SHORTEST_TASK = 5, 1.0
CONSUMED, LEFT_ALONE = "default", "nobody"
BIN = Path(sys.executable).parent
ENV = {
    **os.environ,
    "CRISPER_LOAD_TEST": "true",
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "PATH": f"{BIN}:{os.environ['PATH']}",
}


# --- readers ----------------------------------------------------------------------------------


@contextmanager
def local_redis() -> Iterator[redis.Redis]:
    """Run a Redis on a free port; it stores nothing."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        server = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=port)
        try:
            for _ in range(100):
                with suppress(redis.ConnectionError):
                    client.ping()
                    break
                time.sleep(0.05)
            yield client
        finally:
            server.kill()
            server.wait()


class Pings:
    """The longest answer that another client waits for meanwhile, in seconds."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.longest = 0.0
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._ping)

    def _ping(self) -> None:
        while not self.end.wait(0.002):
            begun = time.monotonic()
            self.client.ping()
            self.longest = max(self.longest, time.monotonic() - begun)

    def __enter__(self) -> Pings:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end.set()
        self.thread.join()


def server_cpu(client: redis.Redis) -> float:
    """Seconds of processor that the server has used: other work does not change them much."""
    used = client.info("cpu")
    return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


def read(client: redis.Redis, budget: float) -> dict[str, Any]:
    """Seconds and findings of one reading, as the skew check does it."""
    from celery import Celery

    port = client.connection_pool.connection_kwargs["port"]
    app = Celery("bench", broker=f"redis://127.0.0.1:{port}/0", set_as_current=False)
    request = {"queues": ["default"], "broker_timeout": 5, "budget": budget}
    with Pings(client) as pings:
        begun, server, own = time.monotonic(), server_cpu(client), time.thread_time()
        reading = skew_probe.read_queues(app, request).reading()
        seconds, own = time.monotonic() - begun, time.thread_time() - own
        server = server_cpu(client) - server
    return {
        "seconds": round(seconds, 2),
        "server_cpu_seconds": round(server, 2),
        "own_cpu_seconds": round(own, 2),
        "waited_milliseconds": round(pings.longest * 1000),
        "read": sum(sum(names.values()) for names in reading["waiting"].values()),
        "complete": not reading["partial"] and not reading["unlisted"],
    }


def bench_readers(sizes: list[int]) -> dict[str, Any]:
    """Each reader alone."""
    raw = json.dumps(backlog.message("load_test", "default", "backlog", SHORTEST_TASK))
    found: dict[str, Any] = {}
    with local_redis() as client:
        size = 0
        for number in sorted(sizes):
            backlog.fill(client, "default", raw, number - size, size)
            size = number
            found[f"{number:,} waiting, by script"] = read(client, 60)
        found[f"{size:,} waiting, 1 s"] = read(client, 1)
        client.execute_command("ACL", "SETUSER", "default", "-@scripting")
        found[f"{size:,} waiting, without scripts"] = read(client, 60)
        client.execute_command("ACL", "SETUSER", "default", "+@scripting")
        client.delete("default")
        code = "for i = 1, 10000 do redis.call('SET', 'celery-task-meta-' .. ARGV[1] + i, '{}') end"
        for start in range(0, RESULTS, 10_000):
            client.eval(code, 0, start)
        found[f"0 waiting, {RESULTS:,} results"] = read(client, 60)
        client.flushall()
        for start in range(0, HELD, 1000):
            tags = range(start, start + 1000)
            client.hset("unacked", mapping={tag: f'[{raw}, "", "default"]' for tag in tags})
        found[f"{HELD:,} held by workers"] = read(client, 60)
    print("| reader | seconds | processor: Redis, reader | read | another client waited at most |")
    print("|---|---|---|---|---|")
    for name, each in found.items():
        part = "all" if each["complete"] else "a sample of"
        print(
            f"| {name} | {each['seconds']:.2f} | {each['server_cpu_seconds']:.2f} s,"
            f" {each['own_cpu_seconds']:.2f} s | {part} {each['read']:,}"
            f" | {each['waited_milliseconds']} ms |"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"\nload averages afterwards: {load}")
    print(f"memory of the process that read, at most: {peak} MB\n", flush=True)
    return {**found, "peak_megabytes": peak}


# --- asking workers ---------------------------------------------------------------------------

# A process that answers as so many workers do (ARGV: port, number), each with 200 settings
# and 30 tasks: what asking them costs, without their own processors.
ANSWERING = """
import sys, celery
from kombu.pidbox import Node
app = celery.Celery("bench", broker=f"redis://127.0.0.1:{sys.argv[1]}/0", set_as_current=False)
conf = {f"task_setting_{number}": "value" for number in range(200)}
registered = [f"project.tasks.task_{number}" for number in range(30)]
connection = app.connection_for_read()
queues = {}
def answers(name):
    queues[name] = ["default"]
    def cancel(state, queue=None, **_):
        queues[name] = [each for each in queues[name] if each != queue]
        return {"ok": queue}
    return {
        "ping": lambda state: {"ok": "pong"}, "active": lambda state: [],
        "reserved": lambda state: [], "scheduled": lambda state: [],
        "revoked": lambda state: [], "conf": lambda state, **_: conf,
        "registered": lambda state, **_: registered, "cancel_consumer": cancel,
        "stats": lambda state: {"pool": {"max-concurrency": 1, "processes": [1]}, "total": {}},
        "active_queues": lambda state: [{"name": queue} for queue in queues[name]],
    }
for number in range(int(sys.argv[2])):
    name = f"default@bench{number}"
    node = app.control.mailbox.Node(name, {}, channel=connection.channel(), handlers=answers(name))
    node.listen(callback=node.handle_message)
print("ready", flush=True)
while True:
    connection.drain_events()
"""


def bench_asking(counts: list[int]) -> dict[str, Any]:
    """Seconds to ask so many workers everything, and to have them leave their queues."""
    from celery import Celery

    found: dict[str, Any] = {}
    with local_redis() as client:
        port = client.connection_pool.connection_kwargs["port"]
        app = Celery("bench", broker=f"redis://127.0.0.1:{port}/0", set_as_current=False)
        for count in counts:
            command = [sys.executable, "-c", ANSWERING, str(port), str(count)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                if process.stdout is None or process.stdout.readline() != "ready\n":
                    sys.exit("The process that answers as workers did not start.")
                nodes = [f"default@bench{number}" for number in range(count)]
                asked = {"methods": list(inspect_probe.METHODS), "timeout": 60}
                asked |= {"destination": nodes, "everybody": True, "settle": 0.0}
                # It hears nothing until it has subscribed for all of them.
                ping = {**asked, "methods": ["ping"], "timeout": 2}
                while len(inspect_probe.inspect(app, ping)["replies"]["ping"]) < count:
                    continue
                begun, own = time.monotonic(), time.thread_time()
                replies = inspect_probe.inspect(app, asked)["replies"]
                asking, asking_own = time.monotonic() - begun, time.thread_time() - own
                begun, own = time.monotonic(), time.thread_time()
                tracker = celery_drain.Drain(nodes, 30, begun)
                wanted = {"command": "drain", "timeout": 60, "interval": 1.0, "look_only": False}
                drain_probe.converge(app, {**wanted, "reply_timeout": 10.0}, tracker)
                drain, drain_own = time.monotonic() - begun, time.thread_time() - own
                done = len(tracker.summary(time.time())["done"])
            finally:
                process.kill()
                process.wait()
            found[str(count)] = {
                "asked_seconds": round(asking, 2),
                "asked_own_cpu_seconds": round(asking_own, 2),
                "answers": sum(map(len, replies.values())),
                "drain_seconds": round(drain, 2),
                "drain_own_cpu_seconds": round(drain_own, 2),
                "drained": done,
            }
    print("| workers | ask everything | its processor | drain | its processor |")
    print("|---|---|---|---|---|")
    for count, each in found.items():
        print(
            f"| {count} | {each['asked_seconds']:.2f} s, {each['answers']} answers"
            f" | {each['asked_own_cpu_seconds']:.2f} s"
            f" | {each['drain_seconds']:.2f} s, {each['drained']} drained"
            f" | {each['drain_own_cpu_seconds']:.2f} s |"
        )
    print(flush=True)
    return found


# --- idle workers -----------------------------------------------------------------------------

IDLE_SECONDS = 20.0
EMPTY_APP = "from celery import Celery\napp = Celery('idle', broker={url!r})\n"


def processor_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return what a process has used, in user and system mode."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle_seconds(count: int, options: tuple[str, ...]) -> float:
    """Return the processor seconds that so many idle workers use in IDLE_SECONDS."""
    with local_redis() as client, tempfile.TemporaryDirectory() as folder:
        port = client.connection_pool.connection_kwargs["port"]
        Path(folder, "idle.py").write_text(EMPTY_APP.format(url=f"redis://127.0.0.1:{port}/0"))
        command = [sys.executable, "-m", "celery", "-A", "idle", "worker", "--pool=solo", *options]
        workers = []
        try:
            for number in range(count):
                workers.append(
                    subprocess.Popen(
                        [*command, f"--hostname=idle@bench{number}"],
                        cwd=folder,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                    )
                )
            # Each listens to commands once it has started.
            while len(client.client_list("pubsub")) < count:
                time.sleep(1)
            time.sleep(5)  # for what the last one to start made the others do
            before = sum(map(processor_seconds, workers))
            time.sleep(IDLE_SECONDS)
            return sum(map(processor_seconds, workers)) - before
        finally:
            for worker in workers:
                worker.kill()
            for worker in workers:
                worker.wait()


def bench_idle(counts: list[int]) -> dict[str, Any]:
    """Processor seconds of workers with nothing to do, by their number."""
    ways = {"gossip": (), "without": ("--without-gossip",)}
    found = {
        str(count): {way: idle_seconds(count, options) for way, options in ways.items()}
        for count in counts
    }
    print(f"| idle workers | with gossip, {IDLE_SECONDS:.0f} s | without | ratio |")
    print("|---|---|---|---|")
    for number, each in found.items():
        print(
            f"| {number} | {each['gossip']:.2f} s | {each['without']:.2f} s"
            f" | {each['gossip'] / each['without']:.1f}x |",
            flush=True,
        )
    return found


# --- deploys ----------------------------------------------------------------------------------


def run(*command: str, **options: Any) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, cwd=ROOT, **options)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)[:300]} failed:\n{done.stdout[-6000:]}{done.stderr[-2000:]}")
    return done.stdout


def on_server(script: str, text: str = "") -> str:
    """Output of a shell script on the server."""
    return run("docker", "exec", "--interactive", SERVER, "sh", "-c", script, input=text)


def server(playbook: str) -> None:
    """Create or remove the test server."""
    ENV["MOLECULE_SCENARIO_NAME"] = "bench"
    run("ansible-playbook", f"--inventory={INVENTORY}", f"molecule/shared/{playbook}.yml")


def variables(workers: int, colour: str) -> dict[str, Any]:
    """Variables of a deploy: so many workers, and a change of the application's environment."""
    path = ROOT / "inventories/local/group_vars/all/stack.yml"
    text = path.read_text().replace("{{ inventory_dir }}/../..", str(ROOT))
    app = yaml.safe_load(text)["stack_app"]
    app["environment"].update(COLOUR=colour, LOAD_TEST="true")
    app["celery"]["expected_tasks"].append("load_test")
    pool = {"name": "default", "queues": [CONSUMED, "embeddings"], "concurrency": 1}
    pool |= {"replicas": workers, "memory": "256m", "cpus": 1.0}
    return {
        "stack_hosts": "bench",
        "stack_app": app,
        "stack_limits": {"redis": {"memory": "3g", "cpus": 1.0}},
        "celery_workers": [pool],
        "rollout_wait_timeout": 900,
        # Fifty workers' limits are more than such a machine has; they use 150 MB each.
        "preflight_memory_overcommit": 2,
    }


def play(playbook: str, values: dict[str, Any], *options: str) -> float:
    """Seconds of a playbook of this repository."""
    begun = time.monotonic()
    extra = f"--extra-vars={json.dumps(values)}"
    output = run("ansible-playbook", playbook, f"--inventory={INVENTORY}", extra, *options)
    seconds = time.monotonic() - begun
    if directory := os.environ.get("CRISPER_BENCH_LOGS"):
        Path(directory, f"{playbook.replace('/', '-')}-{begun:.0f}.log").write_text(output)
    return seconds


FILL = """
import json, sys, redis
from backend.settings import settings
client = redis.Redis.from_url(settings().celery_broker_url)
for queue, number in json.loads(sys.argv[1]).items():
    client.delete(queue)
    raw = json.dumps(message("load_test", queue, "backlog", %s))
    fill(client, queue, raw, number)
    client.sadd("_kombu.binding." + queue, "\\x06\\x16\\x06\\x16" + queue)
"""


def fill(number: int, workers: int) -> None:
    """Have so many tasks wait, one half in each queue, and Redis's files in order."""
    task_seconds = max(SHORTEST_TASK, workers / TASKS_PER_SECOND)
    source = Path(backlog.__file__).read_text() + FILL % task_seconds
    queues = json.dumps({CONSUMED: number - number // 2, LEFT_ALONE: number // 2})
    compose = "cd /opt/crisper/current && docker compose exec -T"
    on_server(f"{compose} backend python - '{queues}'", source)
    redis_info = "import redis; from backend.settings import settings; "
    redis_info += "print(redis.Redis.from_url(settings().redis_url).info('persistence'))"
    for _ in range(120):
        info = on_server(f"{compose} backend python -", redis_info)
        if "'aof_rewrite_in_progress': 0" in info and "'aof_rewrite_scheduled': 0" in info:
            return
        time.sleep(1)
    sys.exit("Redis rewrites its file for two minutes: no figures.")


def bench_deploys(sizes: list[int], workers: list[int], rounds: int) -> dict[str, Any]:
    """Seconds of deploys, status and plan, by number of workers and of waiting tasks."""
    found: dict[str, Any] = {}
    server("create")
    try:
        for count in workers:
            play("deploy.yml", variables(count, "first"))
            seconds: dict[int, dict[str, list[float]]] = {
                number: {"deploy": [], "status": [], "plan": []} for number in sizes
            }
            for turn in range(rounds):
                for number in sizes:
                    fill(number, count)
                    values = variables(count, f"{count} {number} {turn}")
                    each = seconds[number]
                    each["plan"].append(play("deploy.yml", values, "--tags=plan"))
                    each["deploy"].append(play("deploy.yml", values))
                    each["status"].append(play("playbooks/status.yml", values))
                    print(f"{count} workers, {number:,} waiting: {each}", file=sys.stderr)
            found[str(count)] = {
                str(number): {kind: statistics.median(times) for kind, times in each.items()}
                for number, each in seconds.items()
            }
    finally:
        server("destroy")
    print("| workers | waiting | deploy | plan | status | deploy against none waiting |")
    print("|---|---|---|---|---|---|")
    for count, by_size in found.items():
        for number, each in by_size.items():
            ratio = each["deploy"] / by_size[str(min(sizes))]["deploy"]
            print(
                f"| {count} | {int(number):,} | {each['deploy']:.1f} s | {each['plan']:.1f} s"
                f" | {each['status']:.1f} s | {ratio:.2f}x |"
            )
    return found


def main() -> int:
    """Measure, print, and return 1 when a deploy with a backlog takes too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--waiting", type=int, nargs="+", default=[0, 10_000, 1_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[5, 50])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["readers", "idle", "deploys"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {}
    if options.only in (None, "readers"):
        found["readers"] = bench_readers(options.waiting)
        found["asking"] = bench_asking(options.workers)
    if options.only in (None, "idle"):
        found["idle"] = bench_idle(options.workers)
    if options.only in (None, "deploys"):
        found["deploys"] = bench_deploys(options.waiting, options.workers, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    smallest, largest = str(min(options.waiting)), str(max(options.waiting))
    reached = True
    for count, by_size in found.get("deploys", {}).items():
        ratio = by_size[largest]["deploy"] / by_size[smallest]["deploy"]
        good = ratio <= MOST_RATIO
        reached = reached and good
        print(
            f"{'reached' if good else 'MISSED'}: {count} workers, {int(largest):,} waiting:"
            f" {ratio:.2f}x (at most {MOST_RATIO}x)"
        )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
