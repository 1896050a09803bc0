"""`python -m nightmill.slicer`: see `nightmill.slicer.program`."""

import sys

from nightmill.slicer.program import main

if __name__ == "__main__":
    sys.exit(main())
