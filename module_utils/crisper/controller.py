"""Detect that the controller that began a module is gone."""

from __future__ import annotations

import select


def orphaned() -> bool:
    """Return whether nobody reads standard output any more, as far as the connection tells.

    SSH closes it with the controller's end; the Docker client's `exec` does not.
    """
    poll = select.poll()
    poll.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
