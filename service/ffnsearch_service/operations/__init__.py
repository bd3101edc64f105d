"""Operations: what a running server tells of itself, in measurements, a log, spans and its health."""
