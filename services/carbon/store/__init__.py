"""All SQL of carbon, a module per subject."""
