"""Backends: the vendors' wires, the local model, and the tiers that need no model."""
