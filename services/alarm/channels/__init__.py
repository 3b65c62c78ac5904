"""Ways to tell people: one port, one module for each kind of receiver."""
