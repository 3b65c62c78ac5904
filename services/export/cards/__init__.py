"""The card platform of the operator (CTWing CMP): what is known of a SIM card. It is only ever read."""
