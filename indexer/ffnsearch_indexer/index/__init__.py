"""The searchable structures: one contract, several backends, the same integers from each."""
