"""Beat with a heartbeat, and a schedule that is text.

Celery's own scheduler keeps its schedule as a pickle, in a volume that outlives releases: whoever
has been in the application once would be in every later release by what they leave there. Here the
last runs are JSON, of which names, dates and numbers are read and nothing else.

Of Celery 5.3 to 5.7 this relies on ``celery.app.defaults`` (the scheduler of an application that
names none), on ``Service.get_scheduler`` and on ``tick``, which every scheduler has.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from celery import beat
from celery.app import defaults
from kombu.exceptions import OperationalError

from crisper_worker.heartbeat import BROKER_DOWN, OK, write

log = logging.getLogger(__name__)
# The longest pause between two looks at the schedule, in seconds: each is a heartbeat.
PAUSE = 5.0
# More than any schedule of last runs: a larger file is none of ours, and is not read.
MOST_BYTES = 16 * 1024 * 1024
# Between two tries to send while the broker is away, in seconds.
RETRY = 1.0


def arm_beat(heartbeat_file: str) -> None:
    """Let the beat that this process becomes write a heartbeat, and its schedule as JSON.

    An application that names a scheduler of its own (django-celery-beat, RedBeat) keeps it.
    """
    ours = f"{Schedule.__module__}:{Schedule.__name__}"
    defaults.DEFAULTS["beat_scheduler"] = ours
    defaults._OLD_DEFAULTS["CELERYBEAT_SCHEDULER"] = ours
    made = beat.Service.get_scheduler

    def get_scheduler(service: Any, lazy: bool = False, **options: Any) -> Any:
        scheduler = made(service, lazy=lazy, **options)
        return scheduler if lazy else with_heartbeat(scheduler, heartbeat_file)

    beat.Service.get_scheduler = get_scheduler


def with_heartbeat(scheduler: Any, path: str) -> Any:
    """Return a scheduler that writes a heartbeat whenever it has looked at its schedule."""
    tick, written = scheduler.tick, time.monotonic()
    write(path, OK)

    def beating(*args: Any, **options: Any) -> float:
        nonlocal written
        pause = tick(*args, **options)
        if time.monotonic() - written >= 1:  # not for each of a thousand tasks that are due
            write(path, BROKER_DOWN if getattr(scheduler, "broker_is_away", False) else OK)
            written = time.monotonic()
        return PAUSE if pause is None else min(pause, PAUSE)

    scheduler.tick = beating
    return scheduler


class Schedule(beat.Scheduler):
    """The application's ``beat_schedule``, with the last runs of a file."""

    def __init__(self, app: Any, *args: Any, **options: Any) -> None:
        self.path = Path(options.get("schedule_filename") or app.conf.beat_schedule_filename)
        self.written = self.complaint = ""
        self.broker_is_away = False
        # A task whose run was not written would be sent again by the next beat.
        options["sync_every_tasks"] = (
            options.get("sync_every_tasks") or app.conf.beat_sync_every or 1
        )
        super().__init__(app, *args, **options)

    def setup_schedule(self) -> None:
        """Take the application's entries, and from the file when they were sent last."""
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        for name, last, count in self._last_runs():
            if name in self.schedule:
                self.schedule[name].last_run_at = last.astimezone(self.app.timezone)
                self.schedule[name].total_run_count = count
        self.sync()

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a task that is due; while the broker is away it stays due.

        Celery's own scheduler takes it for sent then, and a nightly task waits for the next night.
        """
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except beat.SchedulingError as error:
            self.broker_is_away = isinstance(error.__context__, OperationalError)
            if not self.broker_is_away:
                log.exception("%s (%s) cannot be sent", entry.name, entry.task)
                return
            log.error("%s (%s) waits for the broker: %s", entry.name, entry.task, error.__context__)
            self.schedule[entry.name] = entry
            self._heap = None  # read anew by the next tick, with this entry as it was
            time.sleep(RETRY)
        else:
            self.broker_is_away = False
            log.info("sent %s (%s)", entry.name, entry.task)

    def sync(self) -> None:
        """Write the last runs. A disk that is full stops no task."""
        runs = {
            name: {"last_run_at": utc(entry.last_run_at), "total_run_count": entry.total_run_count}
            for name, entry in self.schedule.items()
        }
        text = json.dumps(runs, indent=1, sort_keys=True)
        if text == self.written:
            return
        draft = self.path.with_name(f"{self.path.name}.{os.getpid()}")
        try:
            draft.write_text(text, "utf-8")
            draft.replace(self.path)
            self.written = text
            self.complaint = ""
        except OSError as error:
            if str(error) != self.complaint:  # once, and not with every task
                log.error("the schedule %s could not be written: %s", self.path, error)
            self.complaint = str(error)

    def _last_runs(self) -> Iterator[tuple[str, datetime, int]]:
        try:
            with self.path.open("rb") as file:
                text = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return  # the first beat of this stack
        except OSError as error:
            log.error("the schedule %s could not be read: %s", self.path, error)
            return
        try:
            yield from last_runs(text, datetime.now(timezone.utc))
        except ValueError as error:
            log.error("the schedule %s is not read: %s", self.path, error)

    @property
    def info(self) -> str:
        """Line of beat's banner."""
        return f"    . last runs -> {self.path}"


def utc(moment: datetime) -> str:
    """Return a moment as ISO 8601 in UTC; one without a time zone is in UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return aware.astimezone(timezone.utc).isoformat()


def last_runs(text: bytes, now: datetime) -> list[tuple[str, datetime, int]]:
    """Return what a file says of entries: name, last run, and how often it ran.

    An entry of another shape is passed over, and so is a run that is yet to come: its task would
    never be due.

    Raises:
        ValueError: it is too large, or not JSON.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    try:
        read = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    found = []
    for name, entry in read.items() if isinstance(read, dict) else ():
        last, count = _last_run(entry), _count(entry)
        if last is not None and last <= now:
            found.append((name, last, count))
    return found


def _last_run(entry: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(entry["last_run_at"])
        return moment.astimezone(timezone.utc) if moment.tzinfo else None
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


def _count(entry: Any) -> int:
    count = entry.get("total_run_count") if isinstance(entry, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else 0
