"""Nightmill: slow AI work as durable Temporal workflows."""
