"""A run as a job of a cluster: what is checked here, and what is sent. Knows nothing of Ray."""
