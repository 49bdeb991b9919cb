"""Roles at work beside the main one: in threads or processes, with the memory, ports and weights that they share."""
