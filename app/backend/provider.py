"""Embedding and chat models behind any OpenAI-compatible endpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

from openai import APIConnectionError, APIStatusError, OpenAI, OpenAIError
from openai.types import CreateEmbeddingResponse
from openai.types.chat import ChatCompletion

from backend.provider_errors import ProviderAwayError, ProviderError
from backend.settings import settings

TIMEOUT = 30  # seconds


@lru_cache
def client() -> OpenAI:
    """The official client, once per process; retries are Celery's, never its own."""
    return OpenAI(
        base_url=settings().openai_base_url or "https://api.openai.com/v1",
        api_key=settings().openai_api_key.strip() or "none",  # local servers ask for none
        timeout=TIMEOUT,
        max_retries=0,
    )


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of `texts` by EMBEDDING_MODEL, one each, all of that model's dimension.

    Raises:
        ProviderAwayError: passing trouble.
        ProviderError: refused, or the answer holds no vectors for all the texts.
    """
    with _told():
        answer = client().embeddings.create(
            model=settings().embedding_model, input=list(texts), encoding_format="float"
        )
    vectors = _vectors(answer)
    if len(vectors) != len(texts) or len({len(vector) for vector in vectors}) != 1:
        raise ProviderError("The provider's answer holds no vectors for all the texts.")
    return vectors


def _vectors(answer: object) -> list[list[float]]:
    """What an answer holds; the client checks none of its types."""
    if not isinstance(answer, CreateEmbeddingResponse) or not isinstance(answer.data, list):
        return []
    found = [getattr(entry, "embedding", None) for entry in answer.data]
    return [vector for vector in found if vector and _is_vector(vector)]


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and all(type(part) in (int, float) for part in value)


def complete(system: str, user: str, seconds: float | None = None) -> str | None:
    """The answer of CHAT_MODEL within `seconds`; None when no chat model is set.

    Raises:
        ProviderAwayError: passing trouble.
        ProviderError: refused, or the answer holds no text.
    """
    if not settings().chat_model:
        return None
    with _told():
        answer = client().chat.completions.create(
            model=settings().chat_model,
            messages=[{"role": "system", "content": system}, {"role": "user", "content": user}],
            # Longer than the research may take: its soft limit ends it, and tells why.
            timeout=seconds or settings().research_seconds + TIMEOUT,
        )
    choices = answer.choices if isinstance(answer, ChatCompletion) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    content = getattr(getattr(first, "message", None), "content", None)
    if not isinstance(content, str) or not content.strip():
        raise ProviderError("The provider's answer holds no text.")
    return content


@contextmanager
def _told() -> Iterator[None]:
    """Sort the client's errors into those that pass and those that are final.

    What it raised is not chained: a provider may repeat the key in its answer, and Celery logs
    every exception of a chain.
    """
    try:
        yield
    except APIStatusError as error:
        passing = error.status_code in (408, 429) or error.status_code >= 500
        raise (ProviderAwayError if passing else ProviderError)(_without_key(error)) from None
    except APIConnectionError as error:
        raise ProviderAwayError(_without_key(error, error.__cause__)) from None
    except (OpenAIError, ValueError) as error:  # ValueError: a body that is no JSON
        raise ProviderError(_without_key(error)) from None


def _without_key(*errors: BaseException | None) -> str:
    said = "The provider: " + " ".join(str(error) for error in errors if error)
    key = settings().openai_api_key.strip()
    return (said.replace(key, "***") if key else said)[:1000]
