"""Results that are stored at Redis's memory limit, too.

Of Celery 5.3 to 5.7 this relies on ``RedisBackend._get_client()``, ``connection_errors`` and
``exception_safe_to_retry``, of which Celery's own says no to everything before 5.5.
"""

from __future__ import annotations

from celery.backends import redis as celery_redis

from crisper_worker.oom_bypass import OomBypassRedis, is_refusal


class Results(celery_redis.RedisBackend):
    """Results that are stored at Redis's memory limit too, and later if it takes no writes."""

    def _get_client(self) -> type[OomBypassRedis]:
        return OomBypassRedis

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Return whether to wait and store it again, with ``result_backend_always_retry``."""
        away = isinstance(exc, self.connection_errors)
        return away or is_refusal(exc) or super().exception_safe_to_retry(exc)


class SentinelResults(Results, celery_redis.SentinelBackend):
    """The same behind Sentinel."""
