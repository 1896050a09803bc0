"""HTTP: the only package that imports httpx, so that a move to its successor is a change in one place."""
