"""Files of alarm: the signal table as Excel and CSV."""
