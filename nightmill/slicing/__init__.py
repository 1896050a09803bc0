"""Slicing long PDFs: programs under supervision, their results checked, and a breaker over those that fail."""
