"""Real weights and data that come as packages (extra ``bundled``), for machines without a hub."""
