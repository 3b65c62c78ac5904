"""What carbon does, a module per subject."""
