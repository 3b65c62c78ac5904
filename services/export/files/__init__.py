"""Files of units: the server that a centre fetches them from, what is written into them, what is pushed to a centre."""
