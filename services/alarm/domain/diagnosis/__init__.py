"""Why a device is silent or failing: facts with times and sources in, one cause out."""
