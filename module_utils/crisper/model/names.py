"""Names of Celery's that several rooms know: queues, and the task that every application has.

Python 3.8 and the standard library: ``celery.application`` takes them into containers.
"""

from __future__ import annotations

import re

QUEUE = re.compile(r"[A-Za-z0-9_.:-]{1,100}\Z")
# What a pool without queues consumes until the application has named another.
DEFAULT_QUEUE = "celery"
# Registered by Celery in every application, on both sides of a queue; it returns its arguments.
CANARY = "celery.accumulate"
