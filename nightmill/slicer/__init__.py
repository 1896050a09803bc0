"""The built-in slicer, a program of its own: `python -m nightmill.slicer PDF OUTPUT_DIR JOB_ID`."""
