"""Model completion batches: reading requests, submitting, polling, harvesting and delivering, in plain Python."""
