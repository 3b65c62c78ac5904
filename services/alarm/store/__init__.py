"""All SQL of alarm, a module per subject."""
