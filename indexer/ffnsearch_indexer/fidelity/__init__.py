"""How close the answers of a snapshot are to its model's own distributions, and which profile brings them closest."""
