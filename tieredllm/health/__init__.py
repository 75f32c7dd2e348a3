"""What works: circuit breakers, windows of recent requests, their memory and their report."""
