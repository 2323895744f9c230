"""How a provider of models fails; apart from its client, which takes a second to import."""

from __future__ import annotations


class ProviderError(RuntimeError):
    """The provider refused, or answered nonsense: asking again would change nothing."""


class ProviderAwayError(ConnectionError):
    """Network trouble, too many requests or trouble of the provider's own: it will pass."""
