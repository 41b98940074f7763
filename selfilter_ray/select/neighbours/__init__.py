"""Searching neighbours by cosine: one interface, several backends."""
