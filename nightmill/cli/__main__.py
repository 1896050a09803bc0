"""`python -m nightmill.cli` is the same as `nightmill`."""

from nightmill.cli import main

if __name__ == "__main__":
    main()
