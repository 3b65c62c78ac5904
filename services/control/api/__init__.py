"""The HTTP API of control: plans, occurrences, commands, wake-ups, guards, calendars."""
