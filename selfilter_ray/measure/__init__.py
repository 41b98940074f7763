"""The scoring pass: what a VLM says about every sample of the pool, as one table."""
