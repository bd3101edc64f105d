"""A measurement for a person: one page of figures, tables and explained prompts, out of a snapshot alone."""
