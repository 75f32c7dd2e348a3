"""Decide who is asked, for how long, and what follows from each failure."""
