"""Tokens and certificates change below a running server: a stream ends, connections go on, new ones see the new."""

import subprocess
import sys

import grpc
import pytest
from certificates import Authority, der, shown
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serving import WAIT_S

from ffnsearch_service.client import Client
from ffnsearch_service.errors import UnauthenticatedError

AUTHORITY = Authority()
SERVING = health_pb2.HealthCheckResponse.SERVING


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with a certificate that serves, its authority and a file of tokens."""
    folder = tmp_path_factory.mktemp("protected")
    (folder / "ca.pem").write_bytes(AUTHORITY.certificate)
    return folder


@pytest.fixture(scope="module")
def first(site):
    """The pair that the server starts with."""
    pair = AUTHORITY.make()
    pair.write(site)
    return pair


@pytest.fixture(scope="module")
def secrets(site, token):
    return {name: token("create", "--scope", "read", "--name", name, site / "tokens.toml") for name in ("one", "two")}


@pytest.fixture(scope="module")
def token():
    """Runs `ffnsearch token`, beside the server; gives what it prints."""

    def command(*arguments):
        command = [sys.executable, "-m", "ffnsearch_service.cli", "token", *map(str, arguments)]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S).stdout.strip()

    return command


@pytest.fixture(scope="module")
def server(servers, tiny_snapshot, site, first, secrets):
    settings = {
        "tls.certificate_file": site / "server.crt",
        "tls.key_file": site / "server.key",
        "auth.tokens_file": site / "tokens.toml",
    }
    assignments = [argument for key, value in settings.items() for argument in ("--set", f"{key}={value}")]
    with servers.serving(tiny_snapshot, *assignments) as started:
        yield started


def client_of(server, site, secret):
    return Client(server.address, ca_file=site / "ca.pem", token=secret, timeout_s=WAIT_S)


def test_a_token_that_is_revoked_ends_its_streams_and_no_other(server, site, secrets, token):
    credentials = grpc.ssl_channel_credentials(AUTHORITY.certificate)
    with (
        client_of(server, site, secrets["one"]) as one,
        client_of(server, site, secrets["two"]) as two,
        grpc.secure_channel(server.address, credentials) as channel,
    ):
        watches = {}
        for name, secret in secrets.items():
            metadata = (("authorization", f"Bearer {secret}"),)
            stub = health_pb2_grpc.HealthStub(channel)
            watches[name] = stub.Watch(health_pb2.HealthCheckRequest(), metadata=metadata, timeout=3 * WAIT_S)
            assert next(watches[name]).status == SERVING
        assert one.predict("the people").snapshot_id == two.predict("the people").snapshot_id
        token("revoke", "one", site / "tokens.toml")
        with pytest.raises(grpc.RpcError) as caught:
            next(watches["one"])
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(UnauthenticatedError):
            one.predict("the people")
        assert two.predict("the people").results[0].status == "OK"
        assert watches["two"].is_active(), "on the same connection, with another token"
        watches["two"].cancel()
    assert not any(secret in server.log.read_text() for secret in secrets.values())


def test_a_certificate_that_is_replaced_is_shown_to_new_connections_alone(server, site, first, secrets):
    with client_of(server, site, secrets["two"]) as old:
        before = old.predict("the people")
        assert shown(server.address) == der(first)
        second = AUTHORITY.make()
        second.write(site)
        assert shown(server.address) == der(second)
        assert old.predict("the people").results[0].distribution == before.results[0].distribution
        with client_of(server, site, secrets["two"]) as new:
            assert new.predict("the people").snapshot_id == before.snapshot_id
        (site / "server.key").write_bytes(b"")
        assert shown(server.address) == der(second), "a broken key leaves the pair that serves"
        assert old.predict("the people").snapshot_id == before.snapshot_id
