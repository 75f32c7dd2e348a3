"""Many questions at once: lines in, answers out, and the output is the checkpoint."""
