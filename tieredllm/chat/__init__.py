"""Talk with the tiers over many turns: what `tieredllm chat` does."""
