"""Decide what went wrong between this program and a server, as an `ErrorKind`."""
