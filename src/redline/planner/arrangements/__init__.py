"""Each arrangement of roles as processes of the discrete-event engine: what the real loops do, event for event."""
