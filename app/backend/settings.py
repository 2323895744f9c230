"""Settings from the environment; names are those that the deploy writes into .env.prod."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode

from backend.proxies import parse_proxy

Level = Annotated[
    Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(str.upper)
]


DEFAULT, RESEARCH = "default", "research"  # queues


def _names(text: str | Iterable[str]) -> tuple[str, ...]:
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(name for part in parts if (name := part.strip()))


def _proxies(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(str(parse_proxy(name)) for name in names)


# With commas in the environment, not as JSON.
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]
Proxies = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names), AfterValidator(_proxies)]


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
    load_test: bool = False
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
    # Queues that workers consume, as the deploy names them. Research has a queue of its own where
    # workers consume it, and else goes to `default`, which workers of every inventory consume.
    celery_worker_queues: Names = ()
    # Limits. One client is a logged-in user, else an IPv4 address or an IPv6 /64; 0 limits nothing.
    # What a client may start or ask in a minute, and at once after a minute of rest.
    research_per_minute: int = Field(default=60, ge=0)
    rag_per_minute: int = Field(default=300, ge=0)
    chat_per_minute: int = Field(default=60, ge=0)  # what was said is read five times as often
    itinerary_per_minute: int = Field(default=60, ge=0)  # one makes up to 40 searches
    research_unfinished: int = Field(default=30, ge=0)  # of one client, waiting and running
    events_per_client: int = Field(default=20, ge=0)  # streams of one client, over all processes
    # What everybody together may have, a quarter of it only those who are logged in.
    research_waiting: int = Field(default=200, ge=0)  # in the queue
    questions_at_once: int = Field(default=32, ge=0)  # per web process; half of it for one client
    # Proxies whose X-Forwarded-For and -Proto are believed: names, addresses and networks. By
    # default nginx by its name: a network would also be that of the workers.
    trusted_proxies: Proxies = ("nginx",)
    api_docs: bool = False  # /docs and /openapi.json

    @property
    def research_queue(self) -> str:
        """The queue that research tasks are sent to."""
        return RESEARCH if RESEARCH in self.celery_worker_queues else DEFAULT


@lru_cache
def settings() -> Settings:
    """The settings, read once per process."""
    return Settings()
