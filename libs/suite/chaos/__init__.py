"""The chaos of the night with real processes: a plan's window, everything killed, every unit awake or somebody told."""
