"""Finding what is stuck, and deciding what repairs it. What carries that out, on Temporal, is in `activities`."""
