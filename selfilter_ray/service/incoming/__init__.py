"""Samples of requests: their form, their images from wherever they may come, their digest."""
