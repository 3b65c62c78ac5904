"""The units' door: who is turned away too often."""
