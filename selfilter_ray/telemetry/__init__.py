"""What an operator sees of a run: metrics, log lines with its id, traces. Knows nothing of Ray."""
