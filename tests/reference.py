"""Slow, obvious versions of fast paths, for the tests to compare with."""
