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
    mariadb_url: str = Field(default="", repr=False)  # chat history; in PostgreSQL without it
    rag_cache_seconds: int = Field(default=3600, ge=1)
    rag_threads: int = Field(default=16, ge=1)  # searches at once per process; 1 is one by one
    secret_key: str = Field(default="", repr=False)
    admin_username: str = "admin"
    admin_password: str = Field(default="", repr=False)
    token_minutes: int = 30
    rehearsal: bool = False
    max_body_bytes: int = 4 * 1024 * 1024
    # Any OpenAI-compatible endpoint. Without an embedding model the one in the image is used;
    # without a chat model reports are put together from the passages themselves.
    openai_base_url: str = ""
    openai_api_key: str = Field(default="", repr=False)
    embedding_model: str = ""
    chat_model: str = ""
    research_seconds: int = Field(default=120, ge=1)  # then the research ends, failed
    research_wait_seconds: float = Field(default=30, gt=0)  # how long POST /api/research waits
    events_seconds: float = Field(default=900, gt=0)  # then a stream ends and clients come back
    events_streams: int = Field(default=100, ge=1)  # at once, per web process


@lru_cache
def settings() -> Settings:
    """The settings, read once per process."""
    return Settings()
