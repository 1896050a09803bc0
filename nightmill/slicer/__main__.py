"""`python -m nightmill.slicer`: see `nightmill.slicer.program`."""

import os
import sys

from nightmill.slicer.program import main

if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # all is written and closed; to take the libraries apart would be a tenth of the whole run
