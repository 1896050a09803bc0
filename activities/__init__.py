"""The only code that touches Temporal and the world at once. Thin."""
