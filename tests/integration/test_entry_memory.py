"""The rendered entry point with little memory on a real engine: bodies larger than it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from entry_lab import Entry, Memory, docker  # noqa: E402

MB = 1024**2


@pytest.fixture(scope="module")
def entry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Entry]:
    folder = tmp_path_factory.mktemp("entry")
    folder.parent.chmod(0o755)  # read by the container's user
    folder.parent.parent.chmod(0o755)
    name = f"entrymem-{os.getpid()}"
    with Entry(folder, name, memory="64m", stack_max_body_size="150m") as started:
        yield started


def test_bodies_larger_than_the_memory_pass_in_both_directions(entry: Entry) -> None:
    """Regression: temporary files lay on a tmpfs, which counts as memory: nginx was killed."""
    with Memory(entry.container) as watch, ThreadPoolExecutor() as pool:
        assert watch.limit == 64 * MB
        slow = [pool.submit(entry.download, 100 * MB, 30 * MB) for _ in range(3)]
        uploads = [pool.submit(entry.upload, 100 * MB) for _ in range(2)]
        entry.reload()
        results = [each.result() for each in [*slow, *uploads]]
    assert [(each.status, each.size, each.right) for each in results] == [
        (200, 100 * MB, True)
    ] * 5, results
    assert watch.kills == entry.ends() == 0
    assert watch.peaks["unreclaimable"] < 0.8 * watch.limit


def test_what_exceeds_the_largest_body_is_refused(entry: Entry) -> None:
    with entry.connect() as connection:
        head = f"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: {151 * MB}\r\n\r\n"
        connection.sendall(head.encode())
        assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_more_bodies_than_the_disk_has_room_for_are_refused(entry: Entry) -> None:
    """54 bodies of 150 MB are 8 GB; requests without a body that goes to disk still pass."""
    head = b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n"
    with ExitStack() as held:
        # More than fit: a request below that comes before the last of 54 would take its place.
        for _ in range(70):
            held.enter_context(entry.connect()).sendall(head + bytes(17000))
        deadline = time.monotonic() + 30
        while (result := entry.upload(20000)).status != 429 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert result.status == 429, result
        assert entry.upload(9999).right
        assert entry.download(9999).right
    deadline = time.monotonic() + 30
    while not (result := entry.upload(20000)).right and time.monotonic() < deadline:
        time.sleep(0.1)
    assert result.right, result


def test_nothing_is_left_on_the_volume_when_nginx_is_killed(entry: Entry) -> None:
    find = ("exec", entry.container, "find", "/var/tmp", "-type", "f")
    with entry.connect() as connection:
        head = f"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: {9 * MB}\r\n\r\n"
        connection.sendall(head.encode() + bytes(4 * MB))
        held = "ls -l /proc/[0-9]*/fd 2>/dev/null | grep -c 'client_body.*deleted' || true"
        assert docker("exec", entry.container, "sh", "-c", held) == "1"
        docker("kill", entry.container)
    docker("start", entry.container)
    assert docker(*find) == ""
