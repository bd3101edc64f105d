"""The service of ffnsearch: one request, from the wire to the answer."""
