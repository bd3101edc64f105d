"""How requests are answered: what they ask, what runs next, what is found, and how it is written."""
