"""What a plan needs of the machine: costs measured on it (probe, cache), options tried on it (trial)."""
