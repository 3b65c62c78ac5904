"""Orders of supervision centres: what is permitted, what was ordered, and whom export asks to carry it out."""
