"""Which settings of dockerd decide what an engine sees: its images, containers and volumes.

An engine that starts with another one of them starts empty, while the containers of before may go
on, unseen (live-restore). So such a change is refused while the engine has anything. The judge is
pure; `look` reads a data-root. Runs on the target's Python (3.8 or newer).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DATA_ROOT = "/var/lib/docker"
MOVE = 'docs/BACKUP.md, "Move the engine\'s data"'
SNAPSHOTTER = "containerd-snapshotter"
# Engines of this version and later take containerd's image store on a new installation, and keep
# the graph driver where they find data of one.
CONTAINERD_BY_DEFAULT = 29
# Graph drivers that an engine without `storage-driver` finds again by their data.
FOUND_AGAIN = ("overlay2", "fuse-overlayfs", "btrfs", "zfs", "overlayfs")
GRAPH_DRIVERS = ("overlay2", "fuse-overlayfs", "btrfs", "zfs", "vfs", "aufs", "devicemapper")
# Key of daemon.json -> what dockerd's command line calls it.
FLAGS = {
    "data-root": ("--data-root", "--graph", "-g"),
    "storage-driver": ("--storage-driver", "-s"),
    "userns-remap": ("--userns-remap",),
    "exec-root": ("--exec-root",),
    "containerd": ("--containerd",),
    "containerd-namespace": ("--containerd-namespace",),
}
# Keys that decide which running containers an engine finds, and what they are without a setting.
RUNNING_KEYS = {"exec-root": "/var/run/docker", "containerd": "", "containerd-namespace": "moby"}


@dataclass(frozen=True)
class EngineData:
    """How much an engine has."""

    containers: int = 0
    images: int = 0
    volumes: int = 0

    def __bool__(self) -> bool:
        """Return whether there is anything."""
        return bool(self.containers or self.images or self.volumes)

    def __str__(self) -> str:
        """Return it as messages have it."""
        names = (("container", self.containers), ("image", self.images), ("volume", self.volumes))
        return ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in names)


@dataclass(frozen=True)
class Store:
    """The engine as it is: running, or as it last ran by its configuration file."""

    data_root: str = DATA_ROOT
    driver: str = ""  # '' = unknown
    containerd: bool = False  # containerd's image store, not a graph driver
    userns: bool = False
    running: bool = True
    held: EngineData = EngineData()
    prior_graph: bool = False  # data of a graph driver is in its data-root


@dataclass(frozen=True)
class Change:
    """A setting that would hide what the engine has."""

    key: str
    now: str
    wanted: str
    asked: bool  # docker_daemon_options asks for it; otherwise it stands in the file already


@dataclass(frozen=True)
class Settings:
    """Where settings come from: the file as it is and as it will be, and flags of the engine."""

    old: Mapping[str, Any] = field(default_factory=dict)
    new: Mapping[str, Any] = field(default_factory=dict)
    flags: Sequence[str] = ()  # of the engine that runs
    keeps_flags: bool = True  # the engine that comes is started with them, too
    version: str = ""  # major version of the engine that comes


def flag_values(flags: Iterable[str]) -> dict[str, Any]:
    """Return the settings among dockerd's flags, as daemon.json spells them."""
    names = {flag: key for key, spellings in FLAGS.items() for flag in spellings}
    found: dict[str, Any] = {}
    words = list(flags)
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if not equals and at + 1 < len(words):
            value = words[at + 1]
        if name in names:
            found[names[name]] = value
        elif name == "--feature":  # engine 28 and later: --feature name[=bool]
            feature, _, switched = value.partition("=")
            if feature == SNAPSHOTTER:
                found.setdefault("features", {})[SNAPSHOTTER] = switched.lower() != "false"
    return found


def setting(key: str, config: Mapping[str, Any], flags: Mapping[str, Any]) -> Any:
    """Return a setting by flag or file; None where neither has it."""
    if key == SNAPSHOTTER:
        for source in (flags, config):
            features = source.get("features")
            if isinstance(features, Mapping) and isinstance(features.get(SNAPSHOTTER), bool):
                return features[SNAPSHOTTER]
        return None
    if key == "data-root":  # `graph` is its old name
        found = flags.get(key) or config.get(key) or config.get("graph")
    else:
        found = flags.get(key) or config.get(key)
    return str(found) if found else None


def store_of(info: Mapping[str, Any], volumes: int) -> Store:
    """Return what a running engine says of itself (``docker info``'s JSON)."""
    root = str(info.get("DockerRootDir") or DATA_ROOT)
    options = [str(option) for option in info.get("SecurityOptions") or ()]
    userns = any(option.startswith("name=userns") for option in options)
    if userns:  # <data-root>/<uid>.<gid>
        root = os.path.dirname(root.rstrip("/"))
    status = {
        str(pair[0]): str(pair[1]) for pair in info.get("DriverStatus") or () if len(pair) > 1
    }
    return Store(
        data_root=root,
        driver=str(info.get("Driver") or ""),
        containerd=status.get("driver-type", "").startswith("io.containerd.snapshotter"),
        userns=userns,
        held=EngineData(int(info.get("Containers") or 0), int(info.get("Images") or 0), volumes),
    )


def look(root: str) -> tuple[EngineData, bool]:
    """Return what lies in a data-root, and whether data of a graph driver does.

    For an engine that does not answer. Images of containerd's store are not in it.
    """
    images = 0
    for driver in _names(os.path.join(root, "image")):
        images += len(_names(os.path.join(root, "image", driver, "imagedb/content/sha256")))
    folders = os.path.join(root, "volumes")
    volumes = [n for n in _names(folders) if os.path.isdir(os.path.join(folders, n, "_data"))]
    containers = len(_names(os.path.join(root, "containers")))
    # `l` is made with an empty overlay2 already.
    graph = any(set(_names(os.path.join(root, name))) - {"l"} for name in GRAPH_DRIVERS)
    return EngineData(containers, images, len(volumes)), graph


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def stopped_store(settings: Settings) -> Store:
    """Return an engine that does not answer: what its file says, and what lies in its data-root."""
    root = str(setting("data-root", settings.old, {}) or DATA_ROOT)
    held, graph = look(root)
    wanted = setting(SNAPSHOTTER, settings.old, {})
    return Store(
        data_root=root,
        driver=str(setting("storage-driver", settings.old, {}) or ""),
        containerd=bool(wanted),
        userns=bool(setting("userns-remap", settings.old, {})),
        running=False,
        held=held,
        prior_graph=graph,
    )


def hiding(store: Store, settings: Settings) -> list[Change]:
    """Return every setting with which the engine that comes would not see what this one has."""
    if not store.held:
        return []
    now = flag_values(settings.flags)
    later = now if settings.keeps_flags else {}
    found = [
        *_data_root(store, settings, later),
        *_driver(store, settings, now, later),
        *_image_store(store, settings, later),
        *_userns(store, settings, now, later),
    ]
    if store.running and store.held.containers:
        found += _running(settings, now, later)
    return found


def _asked(settings: Settings, key: str) -> bool:
    """Return whether the file will say something else of a key than it does now."""
    return setting(key, settings.old, {}) != setting(key, settings.new, {})


def same_place(one: str, other: str) -> bool:
    """Return whether two paths are one folder, links followed."""
    return os.path.realpath(one) == os.path.realpath(other)


def _data_root(store: Store, settings: Settings, later: Mapping[str, Any]) -> Iterable[Change]:
    wanted = setting("data-root", settings.new, later) or DATA_ROOT
    if not same_place(wanted, store.data_root):
        yield Change("data-root", store.data_root, wanted, _asked(settings, "data-root"))


def _driver(
    store: Store, settings: Settings, now: Mapping[str, Any], later: Mapping[str, Any]
) -> Iterable[Change]:
    wanted = setting("storage-driver", settings.new, later)
    asked = _asked(settings, "storage-driver")
    if not store.driver:
        return
    if wanted is not None and wanted != store.driver:
        yield Change("storage-driver", store.driver, wanted, asked)
    # Without the setting an engine looks for data of graph drivers; it does not for all.
    set_now = setting("storage-driver", settings.old, now)
    if wanted is None and set_now == store.driver and store.driver not in FOUND_AGAIN:
        yield Change("storage-driver", store.driver, "none: the engine's own choice", asked)


def _image_store(store: Store, settings: Settings, later: Mapping[str, Any]) -> Iterable[Change]:
    wanted = setting(SNAPSHOTTER, settings.new, later)
    if wanted is None:
        modern = settings.version.isdigit() and int(settings.version) >= CONTAINERD_BY_DEFAULT
        # A new engine keeps the graph driver whose data it finds.
        wanted = store.containerd and modern and not store.prior_graph
        shown = "unset"
    else:
        shown = str(wanted).lower()
    if wanted != store.containerd:
        now = f"{str(store.containerd).lower()}{f' ({store.driver})' if store.driver else ''}"
        yield Change(f"features.{SNAPSHOTTER}", now, shown, _asked(settings, SNAPSHOTTER))


def _userns(
    store: Store, settings: Settings, now: Mapping[str, Any], later: Mapping[str, Any]
) -> Iterable[Change]:
    wanted = setting("userns-remap", settings.new, later) or ""
    before = setting("userns-remap", settings.old, now) or ""
    if bool(wanted) != store.userns or (store.userns and before and wanted != before):
        shown = (before or "in force") if store.userns else "none"
        yield Change("userns-remap", shown, wanted or "none", _asked(settings, "userns-remap"))


def _running(
    settings: Settings, now: Mapping[str, Any], later: Mapping[str, Any]
) -> Iterable[Change]:
    """Yield settings with which an engine does not find the containers that run."""
    for key, default in RUNNING_KEYS.items():
        before = setting(key, settings.old, now) or default
        wanted = setting(key, settings.new, later) or default
        # What another package's engine is started with is known to its package alone.
        if _asked(settings, key) and not same_place(before, wanted):
            yield Change(key, before or "its own", wanted or "its own", True)


def refusal(store: Store, changes: Sequence[Change], path: str, restarts: bool) -> tuple[str, str]:
    """Return ``(problem, warning)``; one of them is empty, both are without changes.

    Args:
        changes: as `hiding` gives them.
        path: the configuration file.
        restarts: whether this run restarts, starts or replaces the engine, which brings into force
            what others have written into the file.
    """
    if not changes:
        return "", ""
    asked = [change.key for change in changes if change.asked]
    others = [f"{c.key} back to {c.now}" for c in changes if not c.asked]
    told = "; ".join(f"{c.key} is {c.now} now and would be {c.wanted}" for c in changes)
    text = (
        f"{'docker_daemon_options' if asked else path} would hide what the Docker Engine of this"
        f" host {'has' if store.running else 'has left'} ({store.held}): {told}. An engine that"
        " starts so sees none of it, and what runs may go on unseen, on the same data."
    )
    stay = []
    if asked:
        stay.append(f"take {' and '.join(asked)} out of docker_daemon_options")
    if others:
        stay.append(f"set {' and '.join(others)} in {path}")
    if asked or restarts:
        return (
            f"{text} Neither {path} nor a package was changed. To leave the data where it is:"
            f" {'; '.join(stay)}. To move it: ansible-playbook playbooks/backup.yml, then the steps"
            f" of {MOVE}."
        ), ""
    return "", (
        f"{text} The next restart of the engine, or of the host, would do it."
        f" {stay[0][0].upper()}{stay[0][1:]}, or follow {MOVE}."
    )


@dataclass(frozen=True)
class Endpoint:
    """An engine that a Docker client reaches."""

    address: str
    source: str = ""  # what points the client there: DOCKER_HOST, a context; '' = nothing
    engine: str = ""  # id of the engine
    data_root: str = ""
    held: EngineData = EngineData()


def another_engine(reached: Endpoint, local: Endpoint) -> str:
    """Return why the engine that the client reaches is not the one that has the data; else ''."""
    if not reached.source or not local.engine or reached.engine == local.engine or not local.held:
        return ""
    return (
        f"the Docker client reaches the engine at {reached.address} ({reached.source}), which has"
        f" {reached.held}; the engine of this host ({local.address}, data-root {local.data_root})"
        f" has {local.held}, none of which a deploy would see. Nothing was changed. Take"
        f" {reached.source} away for the user that deploys ('docker context use default'), or, if"
        ' that engine is the right one, empty the other (docs/BACKUP.md, "Move the engine\'s data")'
    )
