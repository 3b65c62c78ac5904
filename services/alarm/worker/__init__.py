"""The consumers of alarm and its measuring."""
