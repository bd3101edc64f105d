"""How many prompts are taken by default. It imports nothing, so that the help of the command line is fast."""

FIRST_CALIBRATION_PROMPTS = 2000
"""Most prompts of the calibration that follows a build."""

CALIBRATION_PROMPTS = 8000
"""Most prompts of a calibration."""

EVALUATION_PROMPTS = 20_000
"""Most prompts of a measurement: the article's number."""
