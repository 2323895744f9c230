"""The hook of an ACME client: let nginx serve the certificate that the client has renewed.

Role ``tls`` installs this file on the server, where the client runs it after a renewal:
``python3 -m crisper.proxy.tls_hook <settings.json>``. Standard library and Python 3.8.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..lock import LockedError, take
from ..process import Captured, capture
from ..text import quote_output
from .certificate import day
from .certificate_files import TlsError, install, installed, pair

# Exit code of the reload command when nginx refuses its configuration.
REFUSED = 3
# Seconds of one attempt to reload nginx.
RELOAD_SECONDS = 120.0
# Seconds between two looks at the lock of a deploy, and between two attempts to reload nginx.
PAUSE = 5.0


@contextlib.contextmanager
def between_deploys(root: Path, patience: float) -> Iterator[None]:
    """Keep deploys of the stack in `root` from beginning, after the present one has ended.

    A deploy trusts the certificates it knows, and would count an unknown one as failed requests.
    A renewal is worth more than such a count: after `patience` seconds it goes on nevertheless.
    The two files are those of ``crisper.journal``.
    """
    deadline = time.monotonic() + patience
    with contextlib.ExitStack() as stack:
        while True:
            remaining = deadline - time.monotonic()
            try:
                guard = take(root / ".lock", fcntl.LOCK_EX, max(0.0, remaining))
            except LockedError as error:
                print(
                    f"The lock of deploys was not waited for any longer: {error}.", file=sys.stderr
                )
                break
            if remaining <= 0 or not deploying(root / "lock"):
                stack.enter_context(guard)
                break
            guard.close()
            time.sleep(PAUSE)
        yield


def deploying(lock: Path) -> bool:
    """Return whether a deploy holds the lock and counts as alive."""
    try:
        return float(json.loads(lock.read_text())["until"]) > time.time()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def reload_nginx(settings: Mapping[str, Any]) -> Captured:
    """Let nginx read its files again; repeat it for as long as nginx cannot be reached.

    Of what the container prints a megabyte is read: it may be compromised.

    An ACME client calls its hook once for each renewal. An engine that restarts in that very
    moment must not cost the certificate.
    """
    deadline = time.monotonic() + settings["reload_timeout"]
    while True:
        try:
            done = capture(settings["reload"], "", RELOAD_SECONDS, settings["project"], 1 << 20)
        except subprocess.TimeoutExpired:
            done = Captured(124, "", f"no end within {RELOAD_SECONDS:g} s")
        if done.returncode in (0, REFUSED) or time.monotonic() >= deadline:
            return done
        time.sleep(PAUSE)


def renewed(settings: Mapping[str, Any]) -> str:
    """Take what the ACME client has brought and let nginx read it; return what is in force.

    Raises:
        TlsError: it is unfit, or nginx refuses it (the one from before stays); or nginx could not
            be reached (it reads the new one when it starts).
    """
    where = settings["certificate_file"]
    try:
        certificate = Path(where).read_text()
        key = Path(settings["key_file"]).read_text()
    except OSError as error:
        raise TlsError(f"{error.filename}: {error.strerror}; see stack_tls_certificate.") from error
    pem, leaf = pair(certificate, key, settings["names"], time.time(), where)
    folder = Path(settings["folder"])
    with between_deploys(Path(settings["root"]), settings["patience"]):
        before = installed(folder)
        if before != pem:
            install(folder, pem, settings["uid"])
        # Also when nothing changed: whoever put it there may have failed to reload nginx.
        done = reload_nginx(settings)
        output = quote_output((done.stderr or done.stdout).strip()[-500:])
        if done.returncode == REFUSED and before:
            install(folder, before, settings["uid"])
            raise TlsError(f"nginx refuses {where}; the certificate from before stays. {output}")
    if done.returncode != 0:
        raise TlsError(f"nginx did not read {where}: start it, or run this hook again. {output}")
    return f"in force: {', '.join(leaf.names)} until {day(leaf.ends)}"


def main() -> int:
    """Run once, with the settings named on the command line."""
    try:
        print(renewed(json.loads(Path(sys.argv[1]).read_text())))
    except (TlsError, OSError) as error:
        print(f"The new certificate is not in force: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
