"""Where batches live: SQL for their state, a file store for what is large. Queries are only here."""
