"""What activities emit: fuels, refrigerants, heat, purchased electricity, and anything with a factor per unit."""
