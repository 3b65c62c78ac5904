"""Records of the data-access standard that come in: files, what has come of them, and the services they go to."""
