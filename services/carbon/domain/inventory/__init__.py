"""Inventories of any boundary: what is in, what it emitted, how sure that is, and statements that stay as they were."""
