"""By what destinations of feeds are told: one module each, and the way there."""
