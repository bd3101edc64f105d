"""Certificates are tried before they serve, followed as they are replaced, and asked of clients if that is wanted."""

import logging
import re
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from certificates import DAY, Authority, Pair, der, encrypted, shown, write_key
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from looping import WAIT_S
from protected import SERVICE, protected
from serving import serving

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.client.credentials import channel_credentials, token_metadata
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import CredentialsError
from ffnsearch_service.security.protection import Protection
from ffnsearch_service.security.tls import Identity, ServerTls, TlsFiles
from ffnsearch_service.security.token_edits import add_token
from ffnsearch_service.security.tokens import new_secret, new_token

AUTHORITY, OTHER = Authority(), Authority("another authority")
PAIR = AUTHORITY.make()


@pytest.fixture
def ca(tmp_path):
    path = tmp_path / "ca.crt"
    path.write_bytes(AUTHORITY.certificate)
    return path


@pytest.fixture
def files(tmp_path):
    return PAIR.write(tmp_path)


def protection_of(files, **others):
    return Protection.open(Limits(), tls_files=files, **others)


def says(address, credentials):
    """What a new connection to the server answers, or the code that it fails with."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, options) as channel:
        try:
            return channel.unary_unary(f"/{SERVICE}/Echo")(b"hello", timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code()


def test_calls_are_encrypted_and_only_the_right_authority_is_believed(files, ca, tmp_path):
    other = tmp_path / "other.crt"
    other.write_bytes(OTHER.certificate)
    with protected(protection_of(files)) as address:
        assert says(address, channel_credentials(ca)) == b"hello from "
        assert says(address, channel_credentials(other)) is grpc.StatusCode.UNAVAILABLE
        with grpc.insecure_channel(address) as channel, pytest.raises(grpc.RpcError) as caught:
            channel.unary_unary(f"/{SERVICE}/Echo")(b"hello", timeout=WAIT_S)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("key", "serves"),
    [
        (rsa.generate_private_key(65537, 2048), True),
        (ec.generate_private_key(ec.SECP256R1()), True),
        (ec.generate_private_key(ec.SECP384R1()), True),
        (ec.generate_private_key(ec.SECP521R1()), False),
        (ed25519.Ed25519PrivateKey.generate(), False),
        (ed448.Ed448PrivateKey.generate(), False),
    ],
    ids=["RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448"],
)
def test_keys_of_every_kind_that_is_taken_serve(ca, tmp_path, key, serves):
    files = AUTHORITY.make(key=key).write(tmp_path)
    if not serves:
        with pytest.raises(CredentialsError, match="make one of RSA, or of the curve P-256"):
            protection_of(files)
        return
    with protected(protection_of(files)) as address:
        assert says(address, channel_credentials(ca)) == b"hello from "


def test_a_client_without_the_right_certificate_is_let_in_nowhere(ca, tmp_path):
    """Mutual TLS."""
    files = PAIR.write(tmp_path, client_ca=OTHER.certificate)
    right, wrong = OTHER.make(for_client=True), AUTHORITY.make(for_client=True)
    credentials = {}
    for name, pair in (("right", right), ("wrong", wrong)):
        certificate, key = tmp_path / f"{name}.crt", write_key(tmp_path / f"{name}.key", pair.key)
        certificate.write_bytes(pair.certificate)
        credentials[name] = channel_credentials(ca, certificate, key)
    with protected(protection_of(files)) as address:
        assert says(address, credentials["right"]) == b"hello from "
        assert says(address, credentials["wrong"]) is grpc.StatusCode.UNAVAILABLE
        assert says(address, channel_credentials(ca)) is grpc.StatusCode.UNAVAILABLE


def test_a_replaced_certificate_is_shown_to_new_connections_and_old_ones_go_on(files, ca, caplog):
    later = AUTHORITY.make(ends=30 * DAY)
    with (
        protected(protection_of(files)) as address,
        grpc.secure_channel(address, channel_credentials(ca)) as channel,
        caplog.at_level(logging.INFO),
    ):
        echo = channel.unary_unary(f"/{SERVICE}/Echo")
        assert echo(b"1", timeout=WAIT_S)
        assert shown(address) == der(PAIR)
        later.write(files.certificate.parent)
        assert shown(address) == der(later)
        assert says(address, channel_credentials(ca)) == b"hello from "
        assert echo(b"2", timeout=WAIT_S)
    assert [record.getMessage()[:27] for record in caplog.records] == ["the certificate has changed"]


def test_a_replaced_authority_of_clients_is_asked_of_new_connections(ca, tmp_path):
    files = PAIR.write(tmp_path, client_ca=OTHER.certificate)
    client = OTHER.make(for_client=True)
    (tmp_path / "client.crt").write_bytes(client.certificate)
    key = write_key(tmp_path / "client.key", client.key)
    credentials = channel_credentials(ca, tmp_path / "client.crt", key)
    with protected(protection_of(files)) as address:
        assert says(address, credentials) == b"hello from "
        files.client_ca.write_bytes(AUTHORITY.certificate)
        assert says(address, credentials) is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("broken", ["half", "other key", "expired", "gone", "open"])
def test_a_broken_replacement_keeps_the_certificate_and_is_told_once(files, caplog, broken):
    later = AUTHORITY.make()
    with protected(protection_of(files)) as address:
        match broken:
            case "half":
                files.certificate.write_bytes(later.certificate[:200])
            case "other key":
                write_key(files.key, later.key)
            case "expired":
                AUTHORITY.make(begins=-2 * DAY, ends=-DAY).write(files.key.parent)
            case "gone":
                files.key.unlink()
            case "open":
                files.key.chmod(0o644)
        for _ in range(3):
            assert shown(address) == der(PAIR)
        lines = [record.getMessage() for record in caplog.records]
        assert len(lines) == 1
        assert re.match("the certificate in use stays: (FILE_|INVALID_CERTIFICATE)", lines[0])
        assert str(files.key.parent) not in caplog.text
        later.write(files.key.parent)
        assert shown(address) == der(later)


def test_a_certificate_may_be_replaced_before_its_key(files):
    """No order is asked for: the pair changes once both are there."""
    later = AUTHORITY.make()
    with protected(protection_of(files)) as address:
        files.certificate.write_bytes(later.certificate)
        assert shown(address) == der(PAIR)
        write_key(files.key, later.key)
        assert shown(address) == der(later)


def test_replacing_under_load_fails_no_new_connection(files, ca):
    with protected(protection_of(files)) as address:
        for number in range(20):
            (AUTHORITY.make() if number % 2 else PAIR).write(files.key.parent)
            assert says(address, channel_credentials(ca)) == b"hello from "


def test_when_it_expires_is_known(tmp_path):
    expires = ServerTls.open(AUTHORITY.make().write(tmp_path)).identity.expires
    assert abs(expires - (datetime.now(UTC) + DAY)) < timedelta(minutes=1)


def test_a_chain_may_follow_the_certificate(files):
    files.certificate.write_bytes(PAIR.certificate + AUTHORITY.certificate)
    assert Identity.load(files).certificate_pem.count(b"BEGIN") == 2


BROKEN = {
    "the other's key": (Pair(PAIR.certificate, AUTHORITY.make().key), "not the certificate's"),
    "expired": (AUTHORITY.make(begins=-2 * DAY, ends=-DAY), "expired"),
    "not valid yet": (AUTHORITY.make(begins=DAY, ends=2 * DAY), "not yet valid"),
    "for clients": (AUTHORITY.make(for_client=True), "purpose"),
    "certificate empty": (Pair(b"", PAIR.key), "not in PEM form"),
    "certificate cut off": (Pair(PAIR.certificate[:300], PAIR.key), "not in PEM form"),
    "certificate damaged": (Pair(PAIR.certificate.replace(b"M", b"N"), PAIR.key), "broken"),
    "certificate of nonsense": (Pair(b"\xff\0" * 40, PAIR.key), "not in PEM form"),
    "key empty": (Pair(PAIR.certificate, b""), "not in PEM form"),
    "key damaged": (Pair(PAIR.certificate, PAIR.key.replace(b"M", b"N")), "broken"),
    "key encrypted": (Pair(PAIR.certificate, encrypted(PAIR.key)), "encrypted"),
    "swapped": (Pair(PAIR.key, PAIR.certificate), "not in PEM form"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_serve_is_refused_at_the_start(tmp_path, case):
    pair, reason = BROKEN[case]
    files = pair.write(tmp_path)
    with pytest.raises(CredentialsError, match=reason) as caught:
        ServerTls.open(files)
    assert str(files.certificate) in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("missing", ["certificate", "key", "client_ca"])
def test_a_missing_file_is_named(tmp_path, missing):
    files = PAIR.write(tmp_path, client_ca=AUTHORITY.certificate)
    getattr(files, missing).unlink()
    with pytest.raises(CredentialsError, match="No such file") as caught:
        ServerTls.open(files)
    assert str(getattr(files, missing)) in caught.value.message


@pytest.mark.parametrize(
    "content", [b"", b"nonsense \xff", AUTHORITY.certificate[:100]], ids=["empty", "nonsense", "cut short"]
)
def test_an_authority_that_is_none_is_named(tmp_path, content):
    files = PAIR.write(tmp_path, client_ca=content)
    with pytest.raises(CredentialsError, match="no certificate in PEM form") as caught:
        ServerTls.open(files)
    assert str(files.client_ca) in caught.value.message


@pytest.mark.parametrize(("mode", "is_fine"), [(0o400, True), (0o640, True), (0o644, False), (0o660, False)])
def test_a_key_that_others_may_read_is_refused(files, mode, is_fine):
    files.key.chmod(mode)
    if is_fine:
        assert ServerTls.open(files)
    else:
        with pytest.raises(CredentialsError, match="open to others"):
            ServerTls.open(files)


def test_the_whole_server_takes_tls_and_tokens(engine, files, ca, tmp_path):
    secret = new_secret()
    add_token(tmp_path / "tokens.toml", new_token("site", ["read"], secret))
    protection = protection_of(files, tokens_file=tmp_path / "tokens.toml")
    with (
        serving(engine, protection=protection) as address,
        grpc.secure_channel(address, channel_credentials(ca)) as channel,
    ):
        metadata = token_metadata(secret, address, encrypted=True)
        info = pb_grpc.PredictionServiceStub(channel).GetInfo(pb.GetInfoRequest(), metadata=metadata, timeout=WAIT_S)
    assert info.snapshot.id


def test_files_are_those_that_are_given(tmp_path):
    files = TlsFiles(tmp_path / "a", tmp_path / "b")
    assert files.paths == (tmp_path / "a", tmp_path / "b")
    assert TlsFiles(tmp_path / "a", tmp_path / "b", tmp_path / "c").paths[2] == tmp_path / "c"
