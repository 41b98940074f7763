"""The online service: scores samples, admits them from a stream, and remembers every decision."""
