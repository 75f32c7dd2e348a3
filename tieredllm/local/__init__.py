"""Run a model file on this machine: find, pull, check, load and ask it."""

from __future__ import annotations
