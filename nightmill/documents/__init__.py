"""Documents: web pages that are fetched again and again, compared, and updated when they really changed."""
