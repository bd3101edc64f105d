"""From a corpus and a model to a snapshot."""
