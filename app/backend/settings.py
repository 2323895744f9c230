"""Settings from the environment; names are those that the deploy writes into .env.prod."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings

Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)
]


class Settings(BaseSettings):
    """Everything the application can be told."""

    release: str = "development"
    log_format: Literal["json", "text"] = "json"
    log_level: Level = "INFO"
    database_url: str = "postgresql+psycopg://crisper:crisper@127.0.0.1:5432/crisper"
    redis_url: str = "redis://127.0.0.1:6379/1"
    celery_broker_url: str = "redis://127.0.0.1:6379/0"
    celery_result_backend: str = "redis://127.0.0.1:6379/2"
    celery_task_time_limit: int = 3600
    celery_task_soft_time_limit: int = 3300
    celery_visibility_timeout: int = 43200
    qdrant_url: str = "http://127.0.0.1:6333"
    qdrant_api_key: str = Field(default="", repr=False)
    qdrant_collection: str = "items"
    secret_key: str = Field(default="", repr=False)
    admin_username: str = "admin"
    admin_password: str = Field(default="", repr=False)
    token_minutes: int = 30
    max_body_bytes: int = 4 * 1024 * 1024


@lru_cache
def settings() -> Settings:
    """The settings, read once per process."""
    return Settings()
