"""Architectures: who does what and who waits for whom, as values that can be printed, checked, run and compared."""
