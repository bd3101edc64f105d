"""How results look to a person, and any of them as JSON."""
