"""How many prompts are taken where nobody says. Light, so that the command line can tell it in its help."""

CALIBRATION_PROMPTS = 8000
"""Most prompts of a calibration."""

EVALUATION_PROMPTS = 20_000
"""Most prompts of a measurement: the article's number."""
