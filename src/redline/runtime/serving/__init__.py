"""The inference engine at work: workers in threads or processes, the server that acts for them, its learner's side."""
