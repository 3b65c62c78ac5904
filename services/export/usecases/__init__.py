"""What export does when it is asked: changes over the API, answers to centres."""
