"""From prompts to answers: profiles, the arithmetic of an answer, and the one path that produces it."""
