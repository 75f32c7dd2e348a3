"""The way down the tiers: who is asked, for how long, and what follows from each failure."""
