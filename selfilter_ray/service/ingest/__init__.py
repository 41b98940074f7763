"""Feeding a running service: from files, and from Kafka topics."""
