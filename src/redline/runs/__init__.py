"""What a run writes: its folder, checkpoints and metrics, and the random states and provenance they record."""
