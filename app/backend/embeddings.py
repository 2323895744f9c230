"""Text to vectors: by the provider's model when one is set, else by WordLlama's.

WordLlama's model ships in its own wheel: no download, no GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock

import wordllama
from wordllama import WordLlama

from backend.settings import settings

_loading = Lock()  # threads that ask at once load one model


@lru_cache
def _model() -> WordLlama:
    """Loaded at first use and once per process: the web process with its first question."""
    folder = Path(wordllama.__file__).parent
    return WordLlama.load(cache_dir=folder, disable_download=True)


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of `texts`, one each, all of the model's dimension (WordLlama: 256, of length 1).

    Raises:
        provider.ProviderAwayError: passing trouble with the provider.
        provider.ProviderError: the provider refused, or answered nonsense.
    """
    if settings().embedding_model:
        from backend import provider  # costs a second, and most installations have none

        return provider.embed(texts)
    with _loading:
        model = _model()
    return model.embed(list(texts), norm=True).tolist()
