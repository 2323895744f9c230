"""Deploys by the real playbooks and roles, on hosts that are folders, in seconds.

README.md has the use. A rule of `script` is ``{point, do, …}``. Points are the modules' names,
``<module>:after`` when one has ended, ``command`` for what is no module, and points in the middle
of stubs: ``compose_rollout:start|cancel_consumers|replace|switch|stop_old|verify``,
``celery_drain:drained``, ``docker_compose_v2:present|stopped|absent``, ``database_migrate:dump``,
``database_dump:restored``,
and ``command:check|migrate|hook``, a one-off container that has ended and that nobody has read yet.

do: ``fail`` (with `answer`, the module's result), ``kill`` (SIGKILL of the module), ``controller``
(SIGKILL of Ansible and its workers), ``unreachable`` (from then on), ``wait`` (until `go`).
More: ``host``, ``call`` (the n-th time the point is met; 1), ``times`` (1), ``with`` (options that
the module must have been given; of lists an element).

Real are: deploy.yml, roles, plugins, and every module that has no stub in stubs/library, such as
deploy_begin, release, deploy_journal, copy. Their Docker client is stubs/bin/docker.
`keep` keeps a state and `put_back` returns to it, in the same folder: paths are part of a release.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible_process
import yaml
from stub_world import World

HERE = Path(__file__).resolve().parent
STUBS, ROOT = HERE / "stubs", HERE.parents[2]
UTILS = STUBS / "collections/ansible_collections/crisper/stubs/plugins/module_utils"
LONGEST = 120  # seconds of one run
DIGEST = "sha256:" + "0" * 63
EMPTY_ENGINE: dict[str, Any] = {
    "up": True,
    "containers": [],
    "commands": [],
    "volumes": {},
    "images": {},
    "missing": [],
    "serving": "",
    "ledger": False,
    "database": [],
    "irreversible": False,
}


class Run:
    """A run of ansible-playbook that has ended."""

    def __init__(self, code: int, output: str, seconds: float) -> None:
        self.code, self.output, self.seconds = code, output, seconds
        self.text = re.sub(r"\s+", " ", output)
        # What a newer Ansible will refuse is met before it does.
        assert "[DEPRECATION WARNING]" not in output, output

    def succeeded(self, *said: str) -> Run:
        """Assert that it did, and what it said."""
        assert self.code == 0, self.output
        return self.said(*said)

    def failed(self, *said: str) -> Run:
        """Assert that it did, and what it said."""
        assert self.code not in (0, -signal.SIGKILL), self.output
        return self.said(*said)

    def said(self, *texts: str) -> Run:
        """Assert that the output has these texts, whatever the line breaks."""
        missing = [text for text in texts if text not in self.text]
        assert not missing, f"{missing} not in:\n{self.output}"
        return self


class Host:
    """What a test looks at on one host."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder, World(folder, 0)
        self.root = self.world.root

    @property
    def engine(self) -> dict[str, Any]:
        """The engine's state; change it with `change`."""
        return json.loads((self.folder / "engine.json").read_text())

    def change(self, **values: Any) -> None:
        """Change the engine's state."""
        with self.world.engine() as engine:
            engine.update(values)

    @property
    def serving(self) -> str:
        """The release that answers requests; ``page``, or empty when nothing does."""
        return "page" if self.world.page_shown() else self.world.serving()

    @property
    def releases(self) -> list[str]:
        """Releases of which containers run."""
        running = [c for c in self.engine["containers"] if c["state"] == "running"]
        rolled = ("backend", "frontend", "celery-worker")  # and one for each pool
        return sorted({c["release"] for c in running if c["service"].startswith(rolled)})

    @property
    def consuming(self) -> list[str]:
        """Releases whose workers take tasks."""
        running = [c for c in self.engine["containers"] if c["state"] == "running"]
        return sorted({c["release"] for c in running if c["consumes"]})

    def link(self, name: str) -> str:
        """Release that a link names; empty without it."""
        path = self.root / name
        return path.resolve().name if path.is_symlink() else ""

    @property
    def current(self) -> str:
        """The current release."""
        return self.link("current")

    @property
    def staged(self) -> str:
        """The staged release."""
        return self.link("next")

    @property
    def lock(self) -> dict[str, Any]:
        """Who has the lock; empty when nobody has."""
        path = self.root / "lock"
        return json.loads(path.read_text()) if path.exists() else {}

    @property
    def journal(self) -> list[dict[str, Any]]:
        """Its entries."""
        path = self.root / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def manifest(self, release: str) -> dict[str, Any]:
        """Manifest of a release."""
        return json.loads((self.root / "releases" / release / "manifest.json").read_text())

    @property
    def points(self) -> list[str]:
        """Points that were reached, in their order."""
        path = self.folder / "points.log"
        return path.read_text().split() if path.exists() else []

    def settle(self) -> None:
        """Wait until no module acts any more whose controller is gone."""
        if self.root.is_dir():
            with (self.root / ".busy").open("a") as busy:
                fcntl.flock(busy, fcntl.LOCK_EX)

    def wait_for_point(self, running: Running | None = None) -> str:
        """Until a run waits at a point; which. With `running`, empty when that has ended."""
        deadline = time.monotonic() + LONGEST
        waiting = self.folder / "waiting"
        while True:
            with contextlib.suppress(OSError):
                if point := waiting.read_text():
                    return point
            if running and running.process.exitcode is not None:
                return ""
            assert time.monotonic() < deadline, "the run never came to its point"
            time.sleep(0.02)

    def go(self) -> None:
        """Let the run go on that waits."""
        (self.folder / "go").touch()
        deadline = time.monotonic() + LONGEST
        while (self.folder / "go").exists():
            assert time.monotonic() < deadline, "nothing waited"
            time.sleep(0.01)


class Running:
    """A run of ansible-playbook that goes on."""

    def __init__(self, site: Site, arguments: list[str]) -> None:
        self.began = time.monotonic()
        site.runs += 1
        self.output = site.folder / f"run-{site.runs}.txt"
        self.process = ansible_process.start(arguments, settings(), self.output)

    def wait(self) -> Run:
        """Until it has ended."""
        self.process.join(LONGEST)
        if self.process.exitcode is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.join()
        seconds = time.monotonic() - self.began
        return Run(self.process.exitcode, self.output.read_text(), seconds)


@functools.cache
def settings() -> dict[str, str]:
    """Ansible's settings, the same for all sites of a process."""
    home = tempfile.mkdtemp(prefix="crisper-playbooks-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_HOME": home,
        "ANSIBLE_LIBRARY": f"{STUBS / 'library'}:{ROOT / 'library'}",
        "ANSIBLE_ACTION_PLUGINS": f"{STUBS / 'action'}:{ROOT / 'plugins/action'}",
        "ANSIBLE_CONNECTION_PLUGINS": str(STUBS / "connection"),
        "ANSIBLE_COLLECTIONS_PATH": f"{STUBS / 'collections'}:{ROOT / 'collections'}",
        "ANSIBLE_CALLBACK_PLUGINS": f"{STUBS / 'callback'}:{ROOT / 'plugins/callback'}",
        "ANSIBLE_CALLBACKS_ENABLED": "crisper_stages,crisper_payloads,warm",
        "ANSIBLE_NOCOLOR": "true",
        "ANSIBLE_FORCE_COLOR": "false",
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }


class Site:
    """One inventory and its hosts; `folder` is emptied first."""

    def __init__(self, folder: Path, hosts: tuple[str, ...] = ("one",)) -> None:
        self.folder, self.names = folder, hosts
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "inventory").mkdir(parents=True)
        self._write_inventory()
        (folder / "bin").mkdir()
        client = (STUBS / "bin/docker").read_text()
        lines = [f"#!{sys.executable} -IS", f"STUBS = {str(UTILS)!r}", client]
        (folder / "bin/docker").write_text("\n".join(lines))
        (folder / "bin/docker").chmod(0o755)
        self.hosts = {}
        for name in hosts:
            (folder / name).mkdir()
            (folder / name / "engine.json").write_text(json.dumps(EMPTY_ENGINE))
            self.hosts[name] = Host(folder / name)
        self.runs = 0

    def _write_inventory(self) -> None:
        """As inventories/example/README.md says, with images of a registry."""
        inventory = self.folder / "inventory"
        shutil.copytree(ROOT / "inventories/example/group_vars", inventory / "group_vars")
        everywhere = inventory / "group_vars/all"
        secrets = (everywhere / "vault.yml.example").read_text()
        (everywhere / "vault.yml").write_text(secrets.replace('""', "a-secret-of-the-tests"))
        (everywhere / "vault.yml.example").unlink()
        text = (everywhere / "stack.yml").read_text()
        for part in ("backend", "frontend"):
            image = f'"registry.example.com/myapp/{part}@{DIGEST}{{{{ build | default(1) }}}}"'
            build = re.compile(r"^( +)build:\n(\1  .*\n)+", re.MULTILINE)
            text = build.sub(rf"\1image: {image}\n", text, count=1)
        stack = text.replace("ADMIN_USERNAME: admin", "X: \"{{ x | default('1') }}\"")
        stack = stack.replace("upgrade, head]", "upgrade, \"{{ revision | default('head') }}\"]")
        (everywhere / "stack.yml").write_text(stack)
        references = ("postgres", "redis", "nginx", "python", "qdrant", "mariadb")
        ours = {
            "ansible_connection": "scripted",
            "ansible_python_interpreter": sys.executable,
            "scripted_folder": str(self.folder / "{{ inventory_hostname }}"),
            "stack_root": "{{ scripted_folder }}/opt",
            "stack_become": False,
            "image_refs": {
                name: f"docker.io/library/{name}@sha256:{'1' * 63}{{{{ data | default(1) }}}}"
                for name in references
            },
            # This machine is not judged.
            "preflight_paths": ["/tmp"],
            "preflight_min_disk_gb": 0,
            "preflight_min_inodes": 0,
            "preflight_memory_required_bytes": 0,
            "preflight_ports": [],
            "preflight_databases": {},
            "preflight_image_source": "local",
            "preflight_docker_source": "present",
        }
        (everywhere / "zz_tests.yml").write_text(yaml.safe_dump(ours))
        hosts = {"stack": {"hosts": dict.fromkeys(self.names)}}
        (inventory / "hosts.yml").write_text(yaml.safe_dump(hosts))

    def application(self, service: str, **options: Any) -> dict[str, Any]:
        """Return stack_app of the inventory, with options of a service."""
        text = (self.folder / "inventory/group_vars/all/stack.yml").read_text()
        app: dict[str, Any] = yaml.safe_load(text)["stack_app"]
        app[service] |= options
        return app

    def __getattr__(self, name: str) -> Host:
        """Return a host by its name."""
        try:
            return self.__dict__["hosts"][name]
        except KeyError:
            raise AttributeError(name) from None

    def script(self, *rules: dict[str, Any]) -> None:
        """What goes wrong from now on; nothing without rules."""
        (self.folder / "script.json").write_text(json.dumps(rules))
        for host in self.hosts.values():
            for mark in ("waiting", "go", "points.log"):
                (host.folder / mark).unlink(missing_ok=True)

    def start(self, *arguments: str, playbook: str = "deploy.yml", **variables: Any) -> Running:
        """Begin a run; `variables` are extra variables."""
        words = [str(ROOT / playbook), "-i", str(self.folder / "inventory"), *arguments]
        words += ["-e", json.dumps(variables)] if variables else []
        return Running(self, words)

    def deploy(self, *arguments: str, playbook: str = "deploy.yml", **variables: Any) -> Run:
        """Run a playbook until its end."""
        return self.start(*arguments, playbook=playbook, **variables).wait()

    def keep(self, kept: Path) -> None:
        """Keep the state of all hosts in a folder."""
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(self.folder, kept, symlinks=True)

    def put_back(self, kept: Path) -> None:
        """Return to a state that was kept."""
        shutil.rmtree(self.folder)
        shutil.copytree(kept, self.folder, symlinks=True)


@contextlib.contextmanager
def temporary_site(*hosts: str) -> Iterator[Site]:
    """A site in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Site(Path(folder) / "site", hosts or ("one",))


@functools.cache
def _deployed(hosts: tuple[str, ...]) -> tuple[Site, Path]:
    folder = Path(tempfile.mkdtemp(prefix="crisper-site-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    site = Site(folder / "site", hosts)
    site.deploy().succeeded()
    site.keep(folder / "first")
    return site, folder / "first"


def deployed_site(*hosts: str) -> tuple[Site, Path]:
    """Return a site as its first deploy has left it, and that state to return to.

    The folder is the same for all that ask, one after the other: the deploy is made once.
    """
    site, kept = _deployed(hosts or ("one",))
    site.put_back(kept)
    site.script()
    return site, kept
