"""Feature extractors behind one contract: names and tables load without torch, networks with it."""
