"""The site: settings, URLs and the two applications (ASGI and Celery)."""

from .celery import app as celery_app

__all__ = ("celery_app",)
