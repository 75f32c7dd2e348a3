"""Tell people and programs when a tier gives way, and when the first one is back."""
