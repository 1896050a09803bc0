"""Logs, metrics and traces.

Metrics go to the meter provider that the process has set; without one they cost next to nothing.
"""
