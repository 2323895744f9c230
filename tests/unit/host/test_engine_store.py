"""What would hide the engine's images, containers or volumes is refused, and only that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.host import engine_store as logic
from ansible_collections.crisper.stack.plugins.module_utils.host.engine_store import (
    Endpoint,
    EngineData,
    Settings,
    Store,
    hiding,
    refusal,
)
from hypothesis import given
from hypothesis import strategies as st

SOME = EngineData(8, 7, 5)
GRAPH = Store(driver="overlay2", held=SOME, prior_graph=True)
CONTAINERD = Store(driver="overlayfs", containerd=True, held=SOME)
ON, OFF = ({"features": {"containerd-snapshotter": on}} for on in (True, False))
DEBIAN = ["-H", "fd://", "--containerd=/run/containerd/containerd.sock"]


def changes(store: Store, **settings: Any) -> list[tuple[str, str, str]]:
    return [(c.key, c.now, c.wanted) for c in hiding(store, Settings(**settings))]


ROOT, STORE, DRIVER = "data-root", "features.containerd-snapshotter", "storage-driver"


@pytest.mark.parametrize(
    ("store", "settings", "expected"),
    [
        # Nothing of it, and the same value again, by file or by flag.
        (GRAPH, {}, []),
        (GRAPH, {"new": {"log-driver": "json-file"}, "flags": DEBIAN}, []),
        (GRAPH, {"new": {"data-root": "/var/lib/docker"}}, []),
        (GRAPH, {"new": {"data-root": "/var/lib/docker/"}}, []),
        (
            Store(data_root="/srv/d", driver="overlay2", held=SOME),
            {"flags": ["--data-root=/srv/d"]},
            [],
        ),
        (Store(data_root="/srv/d", driver="overlay2", held=SOME), {"flags": ["-g", "/srv/d"]}, []),
        (Store(data_root="/srv/d", driver="overlay2", held=SOME), {"new": {"graph": "/srv/d"}}, []),
        (GRAPH, {"new": {"storage-driver": "overlay2", **OFF}}, []),
        (CONTAINERD, {"old": ON, "new": ON}, []),
        # data-root
        (GRAPH, {"new": {"data-root": "/srv"}}, [(ROOT, "/var/lib/docker", "/srv")]),
        (GRAPH, {"new": {"graph": "/srv"}}, [(ROOT, "/var/lib/docker", "/srv")]),
        (
            Store(data_root="/srv", driver="overlay2", held=SOME),
            {"old": {"data-root": "/srv"}},
            [(ROOT, "/srv", "/var/lib/docker")],
        ),
        # Somebody has written it into the file; it takes force at the next restart.
        (
            GRAPH,
            {"old": {"data-root": "/srv"}, "new": {"data-root": "/srv"}},
            [(ROOT, "/var/lib/docker", "/srv")],
        ),
        # The engine of another source has flags of its own.
        (
            Store(data_root="/srv", driver="overlay2", held=SOME),
            {"flags": ["--data-root", "/srv"], "keeps_flags": False},
            [(ROOT, "/srv", "/var/lib/docker")],
        ),
        # storage-driver
        (GRAPH, {"new": {"storage-driver": "vfs"}}, [(DRIVER, "overlay2", "vfs")]),
        (GRAPH, {"old": {"storage-driver": "overlay2"}}, []),  # found again by its data
        (
            Store(driver="vfs", held=SOME),
            {"old": {"storage-driver": "vfs"}},
            [(DRIVER, "vfs", "none: the engine's own choice")],
        ),
        (Store(driver="vfs", held=SOME), {}, []),  # it was its own choice before
        (Store(driver="vfs", held=SOME), {"flags": ["-s", "vfs"]}, []),
        # Image store
        (GRAPH, {"new": ON}, [(STORE, "false (overlay2)", "true")]),
        (
            GRAPH,
            {"flags": ["--feature", "containerd-snapshotter"]},
            [(STORE, "false (overlay2)", "true")],
        ),
        (GRAPH, {"flags": ["--feature=containerd-snapshotter=false"]}, []),
        (GRAPH, {"version": "29"}, []),  # an upgraded engine keeps the graph driver
        (CONTAINERD, {"version": "29"}, []),  # a new one has taken containerd's by itself
        (CONTAINERD, {"version": "29", "new": OFF}, [(STORE, "true (overlayfs)", "false")]),
        (CONTAINERD, {"version": "28", "old": ON}, [(STORE, "true (overlayfs)", "unset")]),
        (CONTAINERD, {"version": "", "old": ON}, [(STORE, "true (overlayfs)", "unset")]),
        (
            Store(driver="overlayfs", containerd=True, held=SOME, prior_graph=True),
            {"version": "29", "old": ON},
            [(STORE, "true (overlayfs)", "unset")],
        ),
        # userns-remap
        (GRAPH, {"new": {"userns-remap": "default"}}, [("userns-remap", "none", "default")]),
        (
            Store(driver="overlay2", userns=True, held=SOME),
            {"old": {"userns-remap": "default"}},
            [("userns-remap", "default", "none")],
        ),
        (
            Store(driver="overlay2", userns=True, held=SOME),
            {"old": {"userns-remap": "default"}, "new": {"userns-remap": "app"}},
            [("userns-remap", "default", "app")],
        ),
        # What finds the containers that run.
        (GRAPH, {"new": {"exec-root": "/x"}}, [("exec-root", "/var/run/docker", "/x")]),
        (GRAPH, {"new": {"containerd-namespace": "x"}}, [("containerd-namespace", "moby", "x")]),
        (GRAPH, {"new": {"containerd": "/x.sock"}}, [("containerd", "its own", "/x.sock")]),
        (Store(driver="overlay2", held=EngineData(0, 3, 1)), {"new": {"exec-root": "/x"}}, []),
        # More than one.
        (
            GRAPH,
            {"new": {"data-root": "/srv", **ON}},
            [(ROOT, "/var/lib/docker", "/srv"), (STORE, "false (overlay2)", "true")],
        ),
    ],
)
def test_what_would_hide(store: Store, settings: dict, expected: list) -> None:
    assert changes(store, **settings) == expected


STORES = st.builds(
    Store,
    data_root=st.sampled_from(["/var/lib/docker", "/srv/docker"]),
    driver=st.sampled_from(["", "overlay2", "vfs", "overlayfs"]),
    containerd=st.booleans(),
    userns=st.booleans(),
    running=st.booleans(),
    held=st.sampled_from([EngineData(), SOME, EngineData(0, 0, 1)]),
    prior_graph=st.booleans(),
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "data-root": st.sampled_from(["/var/lib/docker", "/srv/docker", "", None]),
        "graph": st.just("/srv/docker"),
        "storage-driver": st.sampled_from(["overlay2", "vfs"]),
        "userns-remap": st.sampled_from(["", "default"]),
        "exec-root": st.just("/x"),
        "features": st.sampled_from([None, {}, {"containerd-snapshotter": True}, [1]]),
    },
)


@given(STORES, CONFIGS, CONFIGS, st.sampled_from(["", "26", "29"]), st.booleans())
def test_only_an_engine_that_has_something_can_lose_it(
    store: Store, old: dict, new: dict, version: str, restarts: bool
) -> None:
    found = hiding(store, Settings(old=old, new=new, version=version))
    problem, warning = refusal(store, found, "/etc/docker/daemon.json", restarts)
    assert not (problem and warning)
    assert bool(problem or warning) == bool(found)
    if not store.held:
        assert not found
    if found and restarts:
        assert problem
    for change in found:
        assert change.now != change.wanted
        assert f"{change.key} is {change.now} now and would be {change.wanted}" in problem + warning


@given(st.lists(st.text(max_size=8) | st.sampled_from(["--data-root", "-s", "--feature"])))
def test_any_flags_are_survived(flags: list[str]) -> None:
    assert isinstance(logic.flag_values(flags), dict)


def test_the_message_names_variable_values_loss_and_way() -> None:
    found = hiding(GRAPH, Settings(new={"data-root": "/srv"}))
    problem, warning = refusal(GRAPH, found, "/etc/docker/daemon.json", restarts=True)
    assert warning == ""
    assert problem == (
        "docker_daemon_options would hide what the Docker Engine of this host has (8 containers,"
        " 7 images, 5 volumes): data-root is /var/lib/docker now and would be /srv. An engine that"
        " starts so sees none of it, and what runs may go on unseen, on the same data. Neither"
        " /etc/docker/daemon.json nor a package was changed. To leave the data where it is: take"
        " data-root out of docker_daemon_options. To move it: ansible-playbook"
        ' playbooks/backup.yml, then the steps of docs/BACKUP.md, "Move the engine\'s data".'
    )


def test_what_others_wrote_into_the_file_is_refused_before_our_restart_and_told_otherwise() -> None:
    settings = Settings(old={"data-root": "/srv"}, new={"data-root": "/srv", "debug": True})
    found = hiding(GRAPH, settings)
    problem, _ = refusal(GRAPH, found, "/etc/docker/daemon.json", restarts=True)
    assert problem.startswith("/etc/docker/daemon.json would hide")
    assert "set data-root back to /var/lib/docker in /etc/docker/daemon.json" in problem
    problem, warning = refusal(GRAPH, found, "/etc/docker/daemon.json", restarts=False)
    assert problem == ""
    assert "The next restart of the engine, or of the host, would do it. Set data-root" in warning


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (
            {
                "DockerRootDir": "/var/lib/docker",
                "Driver": "overlay2",
                "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
                "SecurityOptions": ["name=seccomp,profile=builtin"],
                "Containers": 8,
                "Images": 7,
            },
            Store(driver="overlay2", held=SOME),
        ),
        (
            {
                "DockerRootDir": "/srv/docker/100000.100000",
                "Driver": "overlayfs",
                "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]],
                "SecurityOptions": ["name=userns"],
                "Containers": 8,
                "Images": 7,
            },
            Store("/srv/docker", "overlayfs", True, True, held=SOME),
        ),
        ({}, Store(held=EngineData(0, 0, 5))),
    ],
)
def test_what_an_engine_says_of_itself(info: dict[str, Any], expected: Store) -> None:
    assert logic.store_of(info, 5) == expected


def test_the_data_root_of_an_engine_that_does_not_answer_is_looked_at(tmp_path: Path) -> None:
    assert logic.look(str(tmp_path / "none")) == (EngineData(), False)
    for name in (
        "containers/1",
        "volumes/demo_postgres/_data",
        "volumes/other",
        "image/overlay2/imagedb/content/sha256/1",
        "image/overlay2/imagedb/content/sha256/2",
        "overlay2/l",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "volumes" / "metadata.db").touch()
    assert logic.look(str(tmp_path)) == (EngineData(1, 2, 1), False)
    (tmp_path / "overlay2" / "abc").mkdir()
    assert logic.look(str(tmp_path))[1]
    settings = Settings(old={"data-root": str(tmp_path)}, new={"data-root": "/elsewhere"})
    store = logic.stopped_store(settings)
    found = hiding(store, settings)
    assert [c.key for c in found] == ["data-root"]
    assert "has left (1 container, 2 images, 1 volume)" in refusal(store, found, "f", True)[0]


@pytest.mark.parametrize(
    ("reached", "local", "refused"),
    [
        (Endpoint("unix:///run/user/1000/docker.sock", "DOCKER_HOST", "A"), ("B", SOME), True),
        (Endpoint("tcp://x", "docker context 'far'", ""), ("B", SOME), True),  # it does not answer
        (Endpoint("unix:///run/docker.sock", "DOCKER_HOST", "B"), ("B", SOME), False),  # the same
        (Endpoint("tcp://x", "DOCKER_HOST", "A"), ("B", EngineData()), False),  # nothing to lose
        (Endpoint("tcp://x", "DOCKER_HOST", "A"), ("", EngineData()), False),  # no engine here
        (Endpoint("unix:///var/run/docker.sock", "", "A"), ("B", SOME), False),
    ],
)
def test_another_engine(reached: Endpoint, local: tuple[str, EngineData], refused: bool) -> None:
    here = Endpoint("unix:///var/run/docker.sock", "", local[0], "/var/lib/docker", local[1])
    problem = logic.another_engine(reached, here)
    assert bool(problem) is refused
    if refused:
        assert reached.address in problem
        assert f"({reached.source})" in problem
        assert "8 containers, 7 images, 5 volumes" in problem
