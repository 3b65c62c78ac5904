"""Callbacks: where news come from, how they are said, where they wait, and the call itself."""
