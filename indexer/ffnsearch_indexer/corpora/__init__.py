"""From a text to its unique windows and their next-token counts."""
