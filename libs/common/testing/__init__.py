"""Helpers for tests: a clock that is turned by hand."""
