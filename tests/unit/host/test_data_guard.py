"""No data service is started beside its data: in another engine, or in other hands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import compose_rollout
import data_guard
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.crisper.stack.plugins.module_utils.host import data_guard as logic
from ansible_collections.crisper.stack.plugins.module_utils.host.data_guard import (
    Found,
    Mount,
    Proc,
    Process,
    judge,
)
from hypothesis import given
from hypothesis import strategies as st

RELEASE = "20261127t181711z-57909e12"
MODEL = {"data_services": ["postgres", "redis"], "volumes": ["postgres", "redis", "beat"]}
FOREIGN = Process(
    4612, "postgres", "demo_postgres", "/var/lib/docker/volumes/demo_postgres/_data", "25fabea75f72"
)


@pytest.mark.parametrize(
    ("found", "messages"),
    [
        (Found(), []),
        (Found(missing=["demo_postgres"], processes=[FOREIGN]), []),  # nothing serves: nothing lost
        (Found(RELEASE), []),
        (
            Found(RELEASE, ["demo_postgres", "demo_redis"], "/srv/docker"),
            ["in this engine (data-root /srv/docker): no volume demo_postgres, demo_redis."],
        ),
        (Found(RELEASE, ["demo_postgres"], recreate=True), []),
        (
            Found(RELEASE, processes=[FOREIGN], recreate=True),
            ["pid 4612 of container 25fabea75f72, postgres (it has /var/lib/docker/volumes/"],
        ),
        (
            Found(RELEASE, ["demo_redis"], processes=[FOREIGN]),
            ["no volume demo_redis", "demo_postgres is in use by a process outside this engine"],
        ),
    ],
)
def test_what_stands_against_it(found: Found, messages: list[str]) -> None:
    problems = judge(found)
    assert len(problems) == len(messages)
    for problem, message in zip(problems, messages, strict=True):
        assert message in problem.message


def test_the_remedies_name_what_to_set_and_how_to_go_on_without() -> None:
    missing, foreign = judge(Found(RELEASE, ["demo_redis"], processes=[FOREIGN]))
    for each in (missing, foreign):
        assert "data-root, storage-driver, userns-remap or features.containerd-snap" in each.remedy
    assert "-e recreate_volumes=true" in missing.remedy
    assert "playbooks/restore.yml" in missing.remedy
    assert "kill -INT 4612" in foreign.remedy
    redis = Process(7, "redis-server *:6379", "demo_redis", "/x")
    assert "kill -TERM 7" in judge(Found(RELEASE, processes=[redis]))[0].remedy


@pytest.mark.parametrize(
    ("manifest", "volumes"),
    [
        ({}, []),
        ({"id": RELEASE}, []),  # of an edition whose manifests have no model
        ({"model": {"data_services": ["postgres"]}}, ["demo_postgres"]),
        ({"model": MODEL}, ["demo_postgres", "demo_redis"]),  # beat makes its schedule again
        (
            {"model": {**MODEL, "volumes": ["uploads", "nginx-temp"]}},
            ["demo_postgres", "demo_redis", "demo_uploads"],
        ),
        (
            {"model": {**MODEL, "own_volumes": ["models"]}},
            ["demo_postgres", "demo_redis", "demo_models"],
        ),
    ],
)
def test_the_volumes_with_data(manifest: dict[str, Any], volumes: list[str]) -> None:
    assert logic.data_volumes(manifest, "demo") == volumes


MOUNTS = [
    Mount("0:39", "/", "/"),
    Mount("254:0", "/srv/_data", "/var/lib/docker"),
    Mount("254:1", "/", "/var/lib/docker/volumes/x/_data"),
]


@pytest.mark.parametrize(
    ("folder", "place"),
    [
        ("/var/lib/docker/volumes/p/_data", ("254:0", "/srv/_data/volumes/p/_data")),
        ("/var/lib/docker", ("254:0", "/srv/_data")),
        ("/var/lib/docker2/a", ("0:39", "/var/lib/docker2/a")),
        ("/var/lib/docker/volumes/x/_data", ("254:1", "/")),
        ("/", ("0:39", "/")),
    ],
)
def test_where_a_folder_lies(folder: str, place: tuple[str, str]) -> None:
    assert logic.place_of(folder, MOUNTS) == place


def test_mountinfo_with_spaces() -> None:
    line = "245 220 254:0 /a\\040b /c\\134d rw,relatime master:1 - ext4 /dev/vda rw"
    assert logic.parse_mounts(line + "\n\nshort") == [Mount("254:0", "/a b", "/c\\d")]


@given(st.text())
def test_any_mountinfo_is_survived(text: str) -> None:
    logic.place_of("/var/lib/docker", logic.parse_mounts(text))


class FakeProc:
    """A /proc of a host: `self` is its module, the others as a test adds them."""

    def __init__(self, path: Path, root: str) -> None:
        self.path = path
        self.host = f"1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 254:0 {root} {root} rw - ext4 x rw"
        self.add("self", 1, "mnt:[1]", self.host)
        self.add("1", 0, "mnt:[1]", self.host, "init")
        self.add("50", 1, "mnt:[1]", self.host, "containerd-shim-runc-v2")

    def add(self, pid: str, parent: int, space: str, mounts: str, command: str = "x") -> Path:
        folder = self.path / pid
        (folder / "ns").mkdir(parents=True)
        (folder / "ns" / "mnt").symlink_to(space)
        (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n")
        (folder / "mountinfo").write_text(mounts)
        (folder / "cmdline").write_text(command.replace(" ", "\0") + "\0")
        (folder / "cgroup").write_text(f"0::/docker/{pid.zfill(64)}\n")
        return folder

    def container(self, pid: int, folder: str, parent: int = 50, command: str = "postgres") -> None:
        mounts = f"9 8 0:9 / / ro - overlay x rw\n10 9 254:0 {folder} /data rw - ext4 /dev/vda rw"
        self.add(str(pid), parent, f"mnt:[{pid}]", mounts, "/sbin/docker-init -- start")
        self.add(str(pid + 1), pid, f"mnt:[{pid}]", mounts, command)


@pytest.fixture
def volume(tmp_path: Path) -> str:
    folder = tmp_path / "docker" / "volumes" / "demo_postgres" / "_data"
    folder.mkdir(parents=True)
    return str(folder)


@pytest.fixture
def proc(tmp_path: Path) -> FakeProc:
    return FakeProc(tmp_path / "proc", str(tmp_path / "docker"))


def found(proc: FakeProc, volume: str, *inside: int) -> list[tuple[int, str]]:
    users = logic.users({"demo_postgres": volume}, inside, Proc(str(proc.path)))
    return [(each.pid, each.command) for each in users]


def test_containers_of_this_engine_may_have_it(proc: FakeProc, volume: str) -> None:
    proc.container(100, volume)
    assert found(proc, volume, 100) == []


def test_a_container_that_this_engine_does_not_know_is_found(proc: FakeProc, volume: str) -> None:
    proc.container(100, volume, command="postgres -D /data")
    (process,) = logic.users({"demo_postgres": volume}, [], Proc(str(proc.path)))
    assert (process.pid, process.command) == (101, "postgres -D /data")  # not the init above it
    assert process.container == "0" * 12
    assert (process.volume, process.folder) == ("demo_postgres", volume)


def test_the_same_volume_in_the_data_root_of_before_is_found(proc: FakeProc, volume: str) -> None:
    proc.container(100, "/var/lib/docker/volumes/demo_postgres/_data")
    assert found(proc, volume) == [(101, "postgres")]
    assert found(proc, "") == [(101, "postgres")]  # also where the engine has no such volume


def test_servers_within_this_host_have_volumes_of_their_own(proc: FakeProc, volume: str) -> None:
    proc.add("60", 50, "mnt:[60]", proc.host, "containerd-shim-runc-v2")  # of an engine in there
    folder = "/var/lib/docker/volumes/server/_data/volumes/demo_postgres/_data"
    proc.container(100, folder, parent=60)
    assert found(proc, volume) == []
    proc.container(200, volume, parent=60)  # but not this very folder
    assert found(proc, volume) == [(201, "postgres")]


def test_other_stacks_and_services_with_a_view_of_their_own_do_not_count(
    proc: FakeProc, volume: str
) -> None:
    proc.container(100, "/var/lib/docker/volumes/other_postgres/_data")
    # A file system of its own on the volume's folder is where it is on the host, too.
    proc.add("70", 1, "mnt:[70]", f"{proc.host}\n3 1 254:0 {volume} {volume} rw - ext4 x rw")
    assert found(proc, volume) == []


def test_a_program_of_the_host_that_writes_there_is_found(proc: FakeProc, volume: str) -> None:
    (Path(volume) / "base").mkdir()
    (Path(volume) / "base" / "1").touch()
    (Path(volume).parent / "own").touch()
    (Path(volume) / "base" / "link").symlink_to(Path(volume).parent / "own")
    for pid, name, flags, file in (
        ("80", "postgres", "0100002", "1"),
        ("81", "rsync", "0100000", "1"),
        ("82", "an account", "0100002", "link"),  # to what is its own
    ):
        folder = proc.add(pid, 1, "mnt:[1]", proc.host, name)
        (folder / "fd").mkdir()
        (folder / "fdinfo").mkdir()
        (folder / "fd" / "5").symlink_to(f"{volume}/base/{file}")
        (folder / "fdinfo" / "5").write_text(f"pos:\t0\nflags:\t{flags}\n")
    assert found(proc, volume) == [(80, "postgres")]


def test_processes_of_this_machine_are_read(tmp_path: Path) -> None:
    """A process that has a file open, as /proc of the kernel tells it."""
    folder = tmp_path / "_data"
    folder.mkdir()
    code = "import sys; f = open(sys.argv[1], 'w'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / "pg_wal")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout
        child.stdout.readline()
        users = logic.users({"demo_postgres": str(folder)}, [])
        assert [each.pid for each in users] == [child.pid]
        child.communicate(b"")
    assert logic.users({"demo_postgres": str(folder)}, []) == []


# Another process opens a file below mounts of its own, and hands it over.
HANDED = """
import ctypes, os, socket, subprocess, sys
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    assert ctypes.CDLL(None).unshare(0x00020000) == 0
    subprocess.check_call(["mount", "--make-rprivate", "/"])
    subprocess.check_call(["mount", "--types", "tmpfs", "own", sys.argv[1]])
    handle = os.open(sys.argv[1] + "/pg_wal", os.O_RDWR | os.O_CREAT)
    socket.send_fds(theirs, [b"x"], [handle])
    theirs.recv(1)  # the name is whole while these mounts are there
    os._exit(0)
theirs.close()
_, handles, _, _ = socket.recv_fds(ours, 1, 1)
print(os.readlink(f"/proc/self/fd/{handles[0]}"), flush=True)
sys.stdin.read()
"""


def test_a_file_of_another_mount_is_not_the_data(tmp_path: Path) -> None:
    """Regression: an account's own file with the name of the data blocked every deploy."""
    folder = tmp_path / "_data"
    folder.mkdir()
    words = [sys.executable, "-c", HANDED, str(folder)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        name = child.stdout.readline().decode().strip()
        (folder / "pg_wal").touch()
        users = logic.users({"demo_postgres": str(folder)}, [])
        child.communicate(b"")
    assert name.startswith(f"{folder}/pg_wal")
    assert users == []


def test_a_process_that_has_ended_has_nothing_in_its_hands() -> None:
    """Regression: it passed for root's, so that an account's short ones blocked every deploy."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not Proc().is_roots(ended.pid)


MOUNTED = """
mount --types tmpfs own /mnt && cd /mnt && mkdir -p volumes/demo_postgres/_data
mount --bind volumes/demo_postgres/_data volumes/demo_postgres/_data
echo mounted && exec -a "$(printf 'postgres\\033[2J')" cat
"""


@pytest.mark.parametrize(
    ("began_by", "commands"),
    [
        ("setpriv --reuid=65534 --regid=65534 --clear-groups unshare --map-root-user --mount", []),
        ("unshare --mount", ["postgres\\x1b[2J"]),
    ],
    ids=["an account", "root"],
)
def test_what_an_account_mounts_is_not_the_data(began_by: str, commands: list[str]) -> None:
    """Regression: in a user namespace of its own it blocked every deploy, and wrote the reason."""
    words = [*began_by.split(), "bash", "-c", MOUNTED]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline() == b"mounted\n"
        users = logic.users({"demo_postgres": "/srv/docker/volumes/demo_postgres/_data"}, [])
        child.communicate(b"")
    assert [each.command for each in users] == commands


DOCKER = """#!/bin/sh
case $1 in
info) echo '"/srv/docker"' ;;
volume) shift 4
  for name; do [ ! -d "%s/$name" ] || echo "\\"$name\\" \\"%s/$name\\""; done ;;
esac
"""


def stack(folder: Path, *volumes: str, model: Any = None) -> Path:
    (folder / "releases" / RELEASE).mkdir(parents=True)
    manifest = {"id": RELEASE, "model": model or MODEL}
    (folder / "releases" / RELEASE / "manifest.json").write_text(json.dumps(manifest))
    (folder / "current").symlink_to(f"releases/{RELEASE}")
    for name in volumes:
        (folder / "volumes" / name).mkdir(parents=True)
    cli = folder / "docker"
    cli.write_text(DOCKER % (folder / "volumes", folder / "volumes"))
    cli.chmod(0o755)
    return cli


def run(folder: Path, capsys: pytest.CaptureFixture[str], **more: Any) -> dict[str, Any]:
    arguments = {"root": str(folder), "project": "demo", "docker_cli": str(folder / "docker")}
    with patch_module_args({**arguments, **more}), pytest.raises(SystemExit):
        data_guard.main()
    return json.loads(capsys.readouterr().out)


def test_the_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not run(tmp_path, capsys).get("failed")  # no stack, no client
    stack(tmp_path, "demo_postgres")
    told = run(tmp_path, capsys)
    assert told["failed"]
    assert told["msg"].startswith(
        f"Data services are not started: the data of release {RELEASE}, which is the current one,"
        " is not in this engine (data-root /srv/docker): no volume demo_redis. Nothing was created."
    )
    assert not run(tmp_path, capsys, recreate=True).get("failed")
    (tmp_path / "volumes" / "demo_redis").mkdir()
    assert not run(tmp_path, capsys).get("failed")


def test_a_current_release_that_cannot_be_read_has_data_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: with a damaged manifest, a rollback made empty volumes without a word."""
    stack(tmp_path, "demo_redis")
    damaged = "20261127t080000z-00000000"
    (tmp_path / "releases" / damaged).mkdir()
    (tmp_path / "releases" / damaged / "manifest.json").write_text('{"id": ')
    (tmp_path / "current").unlink()
    (tmp_path / "current").symlink_to(f"releases/{damaged}")
    told = run(tmp_path, capsys)
    assert told["failed"]
    assert f"the data of release {damaged}" in told["msg"]
    assert "no volume demo_postgres." in told["msg"]
    (tmp_path / "volumes" / "demo_postgres").mkdir()
    assert not run(tmp_path, capsys).get("failed")


def test_what_the_new_release_adds_may_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """MariaDB is turned on: the current release has none, so that its volume is no loss."""
    stack(tmp_path, "demo_postgres", "demo_redis")
    assert not run(tmp_path, capsys).get("failed")


def test_an_engine_that_does_not_answer_is_no_proof(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = stack(tmp_path)
    cli.write_text("#!/bin/sh\nexit 1\n")
    assert not run(tmp_path, capsys).get("failed")
    # Regression: with a format, docker 26 ends well and says this of an engine that is stopped.
    cli.write_text('#!/bin/sh\n[ "$1" = info ] && echo \'""\'\n[ "$1" = info ]\n')
    assert not run(tmp_path, capsys).get("failed")
    cli.write_text("#!/bin/sh\n")  # regression: no text at all ended in a traceback
    assert not run(tmp_path, capsys).get("failed")
    os.unlink(cli)
    assert not run(tmp_path, capsys).get("failed")


def test_a_rollout_makes_no_data_service_beside_its_data(run_module: Any, tmp_path: Path) -> None:
    """Also where the database role was passed over: nothing is begun, no volume is made."""
    cli = stack(tmp_path, "demo_postgres")
    commands = tmp_path / "commands"
    cli.write_text(cli.read_text().replace("#!/bin/sh\n", f'#!/bin/sh\necho "$*" >>{commands}\n'))
    given = {
        "phases": ["start", "replace"],
        "project_src": str(tmp_path / "releases" / RELEASE),
        "project_name": "demo",
        "release": RELEASE,
        "services": {"backend": {"kind": "web"}, "redis": {"kind": "stateful"}},
        "docker_cli": str(cli),
    }
    answer = run_module(compose_rollout, **given)
    assert answer["failed"]
    assert answer["msg"].startswith(
        f"redis cannot be started: the data of release {RELEASE}, which is the current one, is not"
        " in this engine (data-root /srv/docker): no volume demo_redis. Nothing was created."
    )
    assert " up " not in commands.read_text()
    (tmp_path / "volumes" / "demo_redis").mkdir()
    run_module(compose_rollout, **given)
    assert " up " in commands.read_text()
