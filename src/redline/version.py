"""Redline's version, also where it runs from its sources and no package of it is installed."""

VERSION = "0.1.0"
