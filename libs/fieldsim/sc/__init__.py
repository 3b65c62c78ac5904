"""A small supervision centre: the other end of the B interface, dialect T, strict about what it is told."""
