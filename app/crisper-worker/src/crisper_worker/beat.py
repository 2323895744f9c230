"""Beat with a heartbeat, and a schedule that is text.

Celery's own scheduler keeps its schedule as a pickle, in a volume that outlives releases: whoever
has been in the application once would be in every later release by what they leave there. Here the
last runs are JSON, of which names, dates and numbers are read and nothing else.

Of Celery 5.3 to 5.7 this relies on ``celery.app.defaults`` (the scheduler of an application that
names none), on ``Service.get_scheduler``, on ``tick``, which every scheduler has, and of Celery's
``Scheduler`` on ``reserve``, ``apply_async(advance=…)``, ``merge_inplace`` and ``_heap``.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import stat
import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from celery import beat
from celery._state import _set_task_join_will_block
from celery.app import defaults
from kombu.exceptions import OperationalError

from crisper_worker import versions
from crisper_worker.heartbeat import OK, write

log = logging.getLogger(__name__)
# The longest pause between two looks at the schedule, in seconds: each is a heartbeat.
PAUSE = 5.0
# Between two tries to send while the broker is away, and between two complaints, in seconds.
RETRY, COMPLAIN = 1.0, 60.0
# More than any schedule of last runs: a larger file is none of ours, and is not read.
MOST_BYTES = 1024 * 1024
# No run was before, and none can be as often: what says so would end the arithmetic of others.
EARLIEST, MOST_RUNS = datetime(2000, 1, 1, tzinfo=timezone.utc), 2**53
# Schedule files of Celery's own scheduler beside ours, of releases that had no guard of beat.
PICKLES = "beat-schedule*"


def arm_beat(heartbeat_file: str) -> None:
    """Let the beat that this process becomes write a heartbeat, and its schedule as JSON.

    An application that names a scheduler of its own (django-celery-beat, RedBeat) keeps it.
    """
    # It waits for no result. Celery would subscribe to that of each task, and stand still for it
    # while Redis is away.
    _set_task_join_will_block(True)
    if unknown := versions.untested(versions.installed()):
        log.warning("beat keeps Celery's schedule file: ours was never tested with %s", unknown)
    else:
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
    tick, written = scheduler.tick, float("-inf")

    def beating(*args: Any, **options: Any) -> float:
        nonlocal written
        pause = tick(*args, **options)
        if time.monotonic() - written >= 1:  # not for each of a thousand tasks that are due
            write(path, OK)
            written = time.monotonic()
        return PAUSE if pause is None else min(pause, PAUSE)

    scheduler.tick = beating
    return scheduler


class Schedule(beat.Scheduler):
    """The application's ``beat_schedule``, with the last runs of a file."""

    # The application's pool connects anew by itself; a producer of beat's own is waited for.
    producer = None

    def __init__(self, app: Any, *args: Any, **options: Any) -> None:
        self.path = Path(options.get("schedule_filename") or app.conf.beat_schedule_filename)
        self.written = self.complaint = ""
        # Entries that are being sent, as they were before: a beat that ends meanwhile has not.
        self.pending: dict[str, Any] = {}
        self.complained: dict[str, float] = {}
        super().__init__(app, *args, **options)

    def setup_schedule(self) -> None:
        """Take the application's entries, and from the file when they were sent last."""
        self.merge_inplace(self.app.conf.beat_schedule)
        self.install_default_entries(self.schedule)
        runs, before = self._last_runs(), self._before_us()
        for name, entry in self.schedule.items():
            last, count = runs.get(str(name), (None, 0))
            latest = max(filter(None, (last, before)), default=None)
            if latest is not None:
                entry.last_run_at = latest.astimezone(self.app.timezone)
                entry.total_run_count = count
        self.sync()

    def reserve(self, entry: Any) -> Any:
        """Count a run of an entry that is about to be sent."""
        self.pending[entry.name] = entry
        return super().reserve(entry)

    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        """Send a task that is due; while the broker is away it stays due.

        Celery's own scheduler takes it for sent then, and a nightly task waits for the next night.
        """
        try:
            self.apply_async(entry, producer=producer, advance=False)
            log.info("sent %s (%s)", entry.name, entry.task)
        except beat.SchedulingError as error:
            if isinstance(error.__context__, OperationalError):
                self._keep_due(entry, error.__context__)
            else:
                log.exception("%s (%s) cannot be sent", entry.name, entry.task)
        self.pending.pop(entry.name, None)
        # At once: a run that is not in the file is sent again by the next beat.
        self.sync()

    def _keep_due(self, entry: Any, error: Exception) -> None:
        now = time.monotonic()
        if now - self.complained.get(entry.name, float("-inf")) >= COMPLAIN:
            self.complained[entry.name] = now
            log.error("%s (%s) waits for the broker: %s", entry.name, entry.task, error)
        # Behind the others: it may be its queue alone that takes nothing.
        self.schedule.pop(entry.name, None)
        self.schedule[entry.name] = entry
        self._heap = None  # read anew by the next tick, with this entry as it was
        time.sleep(RETRY)

    def sync(self) -> None:
        """Write the last runs. A disk that is full stops no task."""
        try:
            entries = {**self.schedule, **self.pending}
            text = json.dumps({str(name): run(entry) for name, entry in entries.items()}, indent=1)
            if text != self.written:
                replace(self.path, text)
                self.written = text
            self.complaint = ""
        except (OSError, TypeError, ValueError) as error:
            if str(error) != self.complaint:  # once, and not with every task
                log.error("the schedule %s could not be written: %s", self.path, error)
            self.complaint = str(error)

    def close(self) -> None:
        """Write the last runs; there is nothing to close."""
        self.sync()

    def _last_runs(self) -> dict[str, tuple[datetime, int]]:
        try:
            return last_runs(read(self.path), datetime.now(timezone.utc))
        except FileNotFoundError:
            pass  # the first beat of this stack
        except (OSError, ValueError) as error:
            log.error("the schedule %s is not read: %s", self.path, error)
        return {}

    def _before_us(self) -> datetime | None:
        """Return until when Celery's scheduler has sent what was due, if it was the last one."""
        try:
            pickles = [path.lstat().st_mtime for path in self.path.parent.glob(PICKLES)]
            ours = self.path.lstat().st_mtime if self.path.exists() else 0
        except OSError:
            return None
        # A date that is yet to come was set by hand: by it each start would count as a run.
        last = max((moment for moment in pickles if moment <= time.time()), default=0)
        return datetime.fromtimestamp(last, timezone.utc) if last > ours else None

    @property
    def info(self) -> str:
        """Line of beat's banner."""
        return f"    . last runs -> {self.path}"


def run(entry: Any) -> dict[str, Any]:
    """Return the last run of an entry as the file has it, in UTC."""
    moment = entry.last_run_at
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    last = aware.astimezone(timezone.utc).isoformat()
    return {"last_run_at": last, "total_run_count": entry.total_run_count}


def read(path: Path) -> bytes:
    """Return what a file holds; the volume it is in may have been in other hands.

    Raises:
        OSError: it is not there, or no regular file (a pipe would be waited for).
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        return file.read(MOST_BYTES + 1)


def replace(path: Path, text: str) -> None:
    """Replace a file, so that a reader never sees half of it.

    Raises:
        OSError: it cannot be written.
    """
    draft = path.with_name(f"{path.name}.part")
    for taken in (draft, path):
        if taken.is_dir() and not taken.is_symlink():
            # Out of the way, whatever its mode.
            aside = taken.with_name(f"{taken.name}.{uuid.uuid4().hex}")
            taken.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)
    draft.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(draft, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    draft.replace(path)


def last_runs(text: bytes, now: datetime) -> dict[str, tuple[datetime, int]]:
    """Return the last run of entries by name, and how often they ran.

    An entry of another shape is passed over, and so is a run that is yet to come: its task would
    never be due.

    Raises:
        ValueError: it is too large, or not JSON.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    runs = {}
    for name, entry in found.items() if isinstance(found, dict) else ():
        last = _last_run(entry)
        if last is not None and EARLIEST <= last <= now + timedelta(seconds=1):
            runs[name] = (last, _count(entry))
    return runs


def _last_run(entry: Any) -> datetime | None:
    try:
        moment = datetime.fromisoformat(entry["last_run_at"])
        return moment.astimezone(timezone.utc) if moment.tzinfo else None
    except (TypeError, KeyError, ValueError, OverflowError):
        return None


def _count(entry: Any) -> int:
    count = entry.get("total_run_count") if isinstance(entry, dict) else None
    if not isinstance(count, int) or isinstance(count, bool):
        return 0
    return count if 0 <= count < MOST_RUNS else 0
