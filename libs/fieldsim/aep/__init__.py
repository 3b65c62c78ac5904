"""A small device platform (CTWing AEP): signed API, command states, pushes with the oddities seen in the wild."""
