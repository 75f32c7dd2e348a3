"""Serve the tiers over HTTP: OpenAI's and Anthropic's protocols in front of one manager."""
