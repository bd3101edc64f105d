"""What may a connection do? Limits as gRPC takes them (limits -> channel arguments)."""

from ffnsearch_service.config import Limits


def server_options(limits: Limits) -> list[tuple[str, int]]:
    """The options of a gRPC server. Each is tried over a raw connection in tests/service/test_connection_limits.py."""
    return [
        ("grpc.so_reuseport", 0),  # two servers on one port would share its calls, silently
        ("grpc.max_receive_message_length", limits.request_bytes_max),  # as it travels, and decompressed
        ("grpc.max_send_message_length", limits.response_bytes_max),
        ("grpc.max_concurrent_streams", limits.streams_max),
        ("grpc.max_metadata_size", limits.metadata_bytes_max),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes_max),
        ("grpc.server_handshake_timeout_ms", limits.handshake_ms_max),
        ("grpc.http2.settings_timeout", limits.handshake_ms_max),  # a client that accepts no limits keeps none
        ("grpc.http2.min_ping_interval_without_data_ms", limits.ping_interval_ms_min),
        ("grpc.http2.max_ping_strikes", limits.ping_strikes_max),
        ("grpc.keepalive_time_ms", limits.keepalive_ms),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_timeout_ms", limits.ping_timeout_ms),
        ("grpc.http2.ping_timeout_ms", limits.ping_timeout_ms),  # without it, the line above is not honoured
        ("grpc.max_connection_idle_ms", limits.connection_idle_ms_max),
        ("grpc.max_connection_age_ms", limits.connection_age_ms_max),
        ("grpc.max_connection_age_grace_ms", limits.connection_age_grace_ms_max),
    ]
