"""Settings of a task that workers are asked for: those with which a task can be lost, or unseen.

Python 3.8 and the standard library: this file also runs inside containers.
"""

from __future__ import annotations

# The last is what a worker tells when it is asked for nothing else.
TASK_INFO = ("acks_late", "time_limit", "ignore_result", "serializer", "rate_limit")
# Tasks of which the settings are told; a name and its settings are 100 bytes.
MOST_TASKS = 5000
