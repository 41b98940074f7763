"""Several ways of choosing from one pool, measured side by side."""
