"""Feeds in the database: batches, destinations, and what each was told."""
