"""A language model behind an OpenAI-compatible server rates every sample."""
