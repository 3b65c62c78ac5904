"""Energy of any level of the tree, and what is read from it: curves, quality of supply, PUE, comparisons."""
