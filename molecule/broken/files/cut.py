"""Kill a deploy as soon as it has written a step into the journal of its server.

    cut.py SERVER STEP COMMAND …

SIGKILL goes to the whole process group of COMMAND, and in steps that one module takes one after the
other to that module on the server too, which would go on by itself. Exits with 1 when COMMAND ended
before the step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading

LONGEST = 300  # seconds
# Steps of modules that take more than one, and go on.
MODULES = ("start", "cancel_consumers", "replace", "stop_old", "dump", "hook", "migrate")
# Steps that run a container, which is to outlive the deploy: it has to be there.
COMMANDS = ("hook", "migrate")


def entry(line: str) -> tuple[str, str]:
    """(run, step) of a line of the journal."""
    read = json.loads(line)
    return read["run"], read["step"]


def wait_for_container(server: str) -> None:
    """Wait until the container of a hook or a migration runs on the server."""
    ask = "docker ps --quiet --filter label=crisper.command --filter status=running"
    wait = f'for i in $(seq 150); do [ -n "$({ask})" ] && exit; sleep 0.2; done; exit 1'
    subprocess.run(["docker", "exec", server, "sh", "-c", wait], check=True)


def main() -> int:
    """Run the command, and cut it off."""
    server, step, *command = sys.argv[1:]
    # Followed, not asked for again and again: that would take a third of a core.
    journal = ["docker", "exec", server, "timeout", str(LONGEST), "tail", "--lines=+1"]
    path = "/opt/crisper/journal.jsonl"
    done = subprocess.run([*journal, path], capture_output=True, text=True, check=True)
    known = {entry(line)[0] for line in done.stdout.splitlines()}
    with tempfile.TemporaryFile("w+") as output:
        deploy = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        follower = subprocess.Popen(
            [*journal, "--follow=name", "--retry", "--sleep-interval=0.1", path],
            stdout=subprocess.PIPE,
            text=True,
        )
        # The end of the deploy, or of the time, is the end of the journal.
        watch = threading.Thread(target=lambda: (deploy.wait(), follower.kill()), daemon=True)
        watch.start()
        seen = map(entry, follower.stdout or ())
        reached = any(run not in known and name == step for run, name in seen)
        if reached and step in COMMANDS:
            wait_for_container(server)
        killed = deploy.poll() is None
        if killed:
            os.killpg(deploy.pid, signal.SIGKILL)
            if reached and step in MODULES:
                # What Ansible runs there has this command line and no arguments.
                module = ["pkill", "-KILL", "--exact", "--full", "/usr/bin/python3"]
                subprocess.run(["docker", "exec", server, *module], check=True)
        watch.join()
        if reached and killed:
            return 0
        output.seek(0)
        where = "in" if reached else "before"
        print(f"the deploy ended {where} its step {step}:\n{output.read()}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
