"""What export decides, without I/O: sessions, mappings, deliveries, answers."""
