"""What export does by itself: queue alarms, keep units logged in, follow readings."""
