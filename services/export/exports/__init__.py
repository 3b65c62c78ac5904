"""Files that are made again and again: rows, sources, writers, and the way to their destinations."""
