"""The entry point under load, with the configuration and the limits that a deploy renders:

    python tests/bench/bench_entry.py [--download 400] [--upload 200] [--slow 1000] [--json FILE]

Once as rendered, once with 64 workers forced by number (the configuration for 64 CPUs, in a
container of the default limits):

1. requests a second and p99 through nginx, against the backend alone (`hey`, 50 clients), and p99
   at a rate that both sustain;
2. slow clients, all at once: a third sends its body byte by byte, a third takes 2 MB slowly, and a
   third takes compressed JSON slowly; none may get a 5xx or lose its connection;
3. 20 downloads of 400 MB at once, every second one by a slow client, with a reload half-way;
4. 20 uploads of 200 MB at once, with a reload half-way.

Every byte is compared. To reach: nothing killed (OOMKilled, restarts and oom_kill of the cgroup),
memory below 80 % of the limit, and a p99 through nginx that is at most 50 ms above the backend's.
Memory is usage minus all file pages of the cgroup: what the kernel cannot reclaim before it kills.
The working set of the kubelet (usage minus inactive_file) is printed too; it counts pages of
temporary files that were used twice. nginx has half a CPU, the backend no limit, so that requests a
second say what half a CPU carries and have no target.
The backend, the clients and nginx share this machine. It takes five to seven minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from entry_lab import Entry, Memory, Transfer, docker  # noqa: E402

MB = 1024**2
AT_ONCE = 20
MOST_MEMORY = 0.8  # share of the limit
MOST_P99 = 0.05  # seconds more than the backend's own
SLOW_SECONDS = 20
JSON_BYTES = MB // 2
RATE = 300  # requests a second of the second p99


def hey(url: str, *options: str) -> tuple[float, float]:
    """Requests a second and p99 (seconds) of `hey`; every answer must be 200."""
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        ["hey", "-z", "5s", *options, url],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    codes = re.findall(r"\[(\d+)\]\s+\d+ responses", done.stdout)
    if codes != ["200"] or "Error distribution" in done.stdout:
        sys.exit(f"hey {url}: not every answer is 200:\n{done.stdout[-1500:]}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    p99 = re.search(r"99%+ in ([\d.]+) secs", done.stdout)
    return float(rate[1]) if rate else 0.0, float(p99[1]) if p99 else 0.0


async def slow_client(address: str, number: int) -> str:
    """One slow client; its outcome is a status, or what went wrong."""
    loop = asyncio.get_running_loop()
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        try:
            await asyncio.sleep(number % 100 / 100)
            await loop.sock_connect(connection, (address, 8080))
            kind = ("body", "bytes", "json")[number % 3]
            if kind == "body":
                return await _slow_body(loop, connection)
            return await _slow_reading(loop, connection, kind)
        except (OSError, TimeoutError) as error:
            return type(error).__name__


async def _slow_body(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> str:
    await loop.sock_sendall(
        connection,
        f"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: {SLOW_SECONDS}\r\n"
        "Connection: close\r\n\r\n".encode(),
    )
    for byte in range(SLOW_SECONDS):
        await asyncio.sleep(1)
        await loop.sock_sendall(connection, bytes([byte]))
    head = await asyncio.wait_for(loop.sock_recv(connection, 4096), 60)
    return head.split()[1].decode() if head else "closed"


async def _slow_reading(
    loop: asyncio.AbstractEventLoop, connection: socket.socket, kind: str
) -> str:
    """Take little each second, then what is left; the end must be there."""
    size = 2 * MB if kind == "bytes" else JSON_BYTES
    await loop.sock_sendall(
        connection,
        f"GET /{kind}/{size} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n"
        "Connection: close\r\n\r\n".encode(),
    )
    head, got, last = b"", 0, b""
    begun = loop.time()
    while True:
        slow = loop.time() - begun < SLOW_SECONDS
        data = await asyncio.wait_for(loop.sock_recv(connection, 1024 if slow else 65536), 60)
        if not data:
            break
        head = head or data
        got += len(data)
        last = (last + data)[-5:]
        if slow:
            await asyncio.sleep(0.5)
    if not head:
        return "closed"
    whole = got > size if kind == "bytes" else last == b"0\r\n\r\n"
    return head.split()[1].decode() if whole else "cut off"


def slow_clients(entry: Entry, number: int) -> Counter[str]:
    """Outcomes of so many slow clients at once."""

    async def run() -> list[str]:
        clients = (slow_client(entry.address, each) for each in range(number))
        return await asyncio.gather(*clients)

    return Counter(asyncio.run(run()))


def disk_peak(entry: Entry, end: threading.Event, found: list[int]) -> None:
    """Append by how many bytes the disk of the volumes filled up, at most, until `end`."""
    folder = docker("volume", "inspect", "--format", "{{.Mountpoint}}", f"{entry.name}_nginx-temp")
    where = Path(folder)
    while not os.access(where, os.R_OK):
        where = where.parent

    def used() -> int:
        state = os.statvfs(where)
        return (state.f_blocks - state.f_bfree) * state.f_frsize

    before, peak = used(), 0
    while not end.wait(0.2):
        peak = max(peak, used() - before)
    found.append(peak)


def at_once(entry: Entry, act: Callable[[int, Transfer], Any], total: int) -> dict[str, Any]:
    """Run `act(number, result)` for all numbers at once; reload at half of `total` bytes.

    nginx cuts off what takes longer than worker_shutdown_timeout (60 s) from then on.
    """
    end, peaks = threading.Event(), []
    watch = threading.Thread(target=disk_peak, args=(entry, end, peaks))
    watch.start()
    begun = time.monotonic()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            results = [Transfer() for _ in range(AT_ONCE)]
            running = [pool.submit(act, number, each) for number, each in enumerate(results)]
            while sum(each.size for each in results) < total / 2 and not running[0].done():
                time.sleep(0.1)
            reloaded_under_load = not all(each.done() for each in running)
            entry.reload()
            for each in running:
                each.result()
        seconds = time.monotonic() - begun
    finally:
        end.set()
        watch.join()
    wrong = [each for each in results if not each.right]
    for each in wrong[:3]:
        print(f"  failed: {each}", file=sys.stderr)
    return {
        "seconds": round(seconds, 1),
        "megabytes_per_second": round(sum(each.size for each in results) / MB / seconds),
        "wrong": len(wrong),
        "disk_megabytes": round(peaks[0] / MB),
        "reloaded_under_load": reloaded_under_load,
    }


def measure(options: argparse.Namespace, workers: int) -> dict[str, Any]:
    """All figures of one configuration."""
    result: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        name = f"bench-entry-{os.getpid()}"
        with Entry(
            Path(folder), name, workers, options.memory, stack_max_body_size="300m"
        ) as entry:
            kills = 0
            alone = f"http://{entry.backend_address}:{entry.port}/"
            through = f"http://{entry.address}:8080/"

            def requests() -> dict[str, Any]:
                steady = ("-c", "10", "-q", str(RATE // 10))
                found = {}
                for kind, url in (("alone", alone), ("through", through)):
                    p99s = [hey(url, *steady)[1] for _ in range(3)]
                    rate, p99 = hey(url, "-c", "50")
                    found[kind] = {
                        "rate": round(rate),
                        "p99": p99,
                        "steady_p99": statistics.median(p99s),
                    }
                return found

            def download(number: int, result: Transfer) -> None:
                entry.download(options.download * MB, 20 * MB if number % 2 else 0, result)

            def upload(_: int, result: Transfer) -> None:
                entry.upload(options.upload * MB, result)

            size = {"download": options.download * MB * AT_ONCE}
            size["upload"] = options.upload * MB * AT_ONCE
            acts = {
                "idle": lambda: time.sleep(1),
                "requests": requests,
                "slow_clients": lambda: dict(slow_clients(entry, options.slow)),
                "downloads": lambda: at_once(entry, download, size["download"]),
                "uploads": lambda: at_once(entry, upload, size["upload"]),
            }
            for kind, act in acts.items():
                with Memory(entry.container) as watch:
                    result[kind] = act()
                kills += watch.kills
                memory[kind] = {
                    "megabytes": {n: round(size / MB, 1) for n, size in watch.peaks.items()},
                    "share": round(watch.share("unreclaimable"), 2),
                    "limit_megabytes": watch.limit // MB,
                }
                print(f"  {kind}: {result[kind]} {memory[kind]}", file=sys.stderr, flush=True)
            result["killed"] = kills + entry.ends()
    return {**result, "memory": memory}


def goals(found: dict[str, Any], slow: int) -> dict[str, bool]:
    """Each target and whether the figures hold it."""
    requests = found["requests"]
    more = requests["through"]["steady_p99"] - requests["alone"]["steady_p99"]
    highest = max(each["share"] for each in found["memory"].values())
    return {
        f"p99 at {RATE} requests/s at most {MOST_P99 * 1000:.0f} ms above the backend's"
        f" ({more * 1000:.0f} ms)": more <= MOST_P99,
        f"{slow:,} slow clients answered ({found['slow_clients']})": found["slow_clients"]
        == {"200": slow},
        "every download and upload whole": found["downloads"]["wrong"] == 0
        and found["uploads"]["wrong"] == 0,
        "a reload under each": found["downloads"]["reloaded_under_load"]
        and found["uploads"]["reloaded_under_load"],
        f"killed: {found['killed']}": found["killed"] == 0,
        f"memory at most {MOST_MEMORY:.0%} of the limit ({highest:.0%})": highest <= MOST_MEMORY,
    }


def main() -> int:
    """Measure, print a table, and return 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--download", type=int, default=400, help="MB of each download")
    parser.add_argument("--upload", type=int, default=200, help="MB of each upload")
    parser.add_argument("--slow", type=int, default=1000, help="slow clients")
    parser.add_argument("--memory", default="", help="limit of nginx instead of the default")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 64], help="0: as rendered")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if not shutil.which("hey"):
        sys.exit("bench_entry: hey is missing: apt-get install hey")
    found = {}
    for workers in options.workers:
        name = f"{workers} workers forced" if workers else "as rendered"
        print(name, file=sys.stderr, flush=True)
        found[name] = measure(options, workers)
    held = True
    for name, each in found.items():
        alone, through = each["requests"]["alone"], each["requests"]["through"]
        print(f"\n{name} (limit {each['memory']['idle']['limit_megabytes']} MB)\n")
        print("| what | figure |\n|---|---|")
        rates = f"{alone['rate']:,} / {through['rate']:,}"
        print(f"| requests/s, backend alone / through nginx | {rates} |")
        print(f"| p99 of those | {alone['p99'] * 1000:.0f} / {through['p99'] * 1000:.0f} ms |")
        print(
            f"| p99 at {RATE} requests/s | {alone['steady_p99'] * 1000:.0f} /"
            f" {through['steady_p99'] * 1000:.0f} ms |"
        )
        for kind in ("downloads", "uploads"):
            print(
                f"| {AT_ONCE} {kind} | {each[kind]['seconds']} s,"
                f" {each[kind]['megabytes_per_second']} MB/s,"
                f" {each[kind]['disk_megabytes']} MB of disk |"
            )
        for kind, memory in each["memory"].items():
            sizes = memory["megabytes"]
            print(
                f"| memory, {kind} | unreclaimable {sizes['unreclaimable']} MB"
                f" ({memory['share']:.0%}),"
                f" working set {sizes['working_set']} MB |"
            )
        print()
        for goal, reached in goals(each, options.slow).items():
            print(f"{'reached' if reached else 'MISSED'}: {goal}")
            held = held and reached
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
