"""What is kept across processes in `state.db`: requests, statistics and notifications."""
