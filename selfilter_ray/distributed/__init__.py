"""The thin shells: the only modules that import Ray."""
