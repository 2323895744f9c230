"""Kill a deploy as soon as it has written a step into the journal of its server.

    cut.py SERVER STEP COMMAND …

SIGKILL goes to the whole process group of COMMAND. Exits with 1 when it ended before the step.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

LONGEST = 300  # seconds


def steps(server: str) -> list[tuple[str, str]]:
    """(run, step) of the journal's last lines."""
    command = ["docker", "exec", server, "tail", "-n", "30", "/opt/crisper/journal.jsonl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    return [(entry["run"], entry["step"]) for entry in entries]


def main() -> int:
    """Run the command, and cut it off."""
    server, step, *command = sys.argv[1:]
    known = {run for run, _ in steps(server)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + LONGEST
    while process.poll() is None and time.monotonic() < deadline:
        if any(run not in known and seen == step for run, seen in steps(server)):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return 0
        time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    print(f"the deploy ended before its step {step}:\n{process.communicate()[0]}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
