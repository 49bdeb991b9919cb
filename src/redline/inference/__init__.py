"""The inference engine: workers that step and know no network, and a server that acts for all of them at once."""
