"""Whether a worker lives and whether it can work: what containers and orchestrators ask.

`python -m nightmill.health` asks a running worker; it starts in a fraction of the time that any of our imports takes.
"""
