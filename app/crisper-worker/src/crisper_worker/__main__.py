"""Celery's own command with the guard, or the dead letters.

    python <folder> -A project worker ...
    python <folder> -A project beat ...
    python <folder> aside --app project list

The folder, and not ``python -m`` with PYTHONPATH: an image may have a PYTHONPATH of its own, which
would be lost.
"""

from __future__ import annotations

import sys

# Celery's options before the subcommand that have a value behind them.
VALUED = ("-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir")


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

    settings = Settings.read()
    if subcommand(sys.argv[1:]) == "beat":
        from crisper_worker.beat import arm_beat  # which workers need not import

        arm_beat(settings.heartbeat_file)
    else:
        arm(settings)
    sys.exit(celery())


def subcommand(words: list[str]) -> str:
    """Return Celery's subcommand of a command line; empty if there is none."""
    rest = iter(words)
    for word in rest:
        if word in VALUED:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return ""


if __name__ == "__main__":
    main()
