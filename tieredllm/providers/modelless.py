"""Be what the tiers without a language model have in common: nothing to set up, count or close."""

from __future__ import annotations

from tieredllm.providers.base import Missing, TokenCounter

__all__ = ["Modelless"]


class Modelless:
    """Be a backend that needs no model; a subclass adds `identity`, `answer` and `probe`."""

    name: str
    """What it is called, as a provider and as a model."""

    @property
    def provider(self) -> str:
        """Its name."""
        return self.name

    @property
    def model(self) -> str:
        """Its name."""
        return self.name

    @property
    def is_language_model(self) -> bool:
        """No model writes these answers."""
        return False

    def missing(self) -> Missing | None:
        """Lack nothing."""
        return None

    async def token_counter(self) -> TokenCounter:
        """Count nothing: a text of any length is taken."""
        return lambda _: 0

    def warm_up(self) -> bool:
        """Do nothing: there is nothing to do that takes long."""
        return False

    async def aclose(self) -> None:
        """Hold nothing."""
