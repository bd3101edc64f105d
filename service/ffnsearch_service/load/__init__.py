"""How fast a running service is: calls at a rate, or by callers that never pause."""
