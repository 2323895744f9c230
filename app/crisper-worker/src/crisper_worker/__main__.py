"""Celery's own command with the guard, or the dead letters.

    python <folder> -A project worker ...
    python <folder> aside --app project list

The folder, and not ``python -m`` with PYTHONPATH: an image may have a PYTHONPATH of its own, which
would be lost.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Do what the command line says, as ``celery`` does."""
    if sys.argv[1:2] == ["aside"]:
        from crisper_worker import aside

        sys.exit(aside.main(sys.argv[2:]))
    # Before anything imports threads or sockets: with a pool of gevent or eventlet they are others.
    from celery import maybe_patch_concurrency

    maybe_patch_concurrency()
    from celery.bin.celery import main as celery

    from crisper_worker.guard import arm
    from crisper_worker.settings import Settings

    arm(Settings.read())
    sys.exit(celery())


if __name__ == "__main__":
    main()
