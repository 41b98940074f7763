"""The HTTP interface, on FastAPI; what answers it is a ``Backend``."""
