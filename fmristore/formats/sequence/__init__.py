"""Several runs, read as one long run or run by run."""
