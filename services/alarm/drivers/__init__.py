"""What alarm asks of others over the network."""
