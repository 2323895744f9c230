"""Fixtures of all the application's tests."""

from testkit import redis_server

__all__ = ["redis_server"]
