"""Read tier profiles: find them, inherit, check every key, and show what is in effect."""
