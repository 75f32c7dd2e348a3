"""Ways to load a model, the fastest first: some processors crash in llama.cpp's fastest kernels."""

from __future__ import annotations

import msgspec

__all__ = ["LoadSettings"]


class LoadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is loaded and computed with."""

    repack: bool = False
    """Whether weights are laid out anew for the processor's matrix units (`use_extra_bufts` of
    llama.h). It takes time while loading and wins some while computing."""
    flash_attention: bool = True
    threads: int | None = None
    """How many threads compute; None for one per physical core."""
