"""The service on Ray Serve: scorer replicas, the writer, and the ingress."""
