"""A client encrypts, shows its certificate, and says who calls; a token does not leave the machine in plain text."""

import json
import re

import grpc
import pytest
from certificates import Authority, encrypted, write_key
from scripted import Scripted, scripted_server

from ffnsearch_service.client import AdminClient, AsyncClient, Client
from ffnsearch_service.client.credentials import TOKEN_CHARACTERS_MAX
from ffnsearch_service.errors import AddressError, CredentialsError, UnavailableError

AWAY = "search.example:443"


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """A folder with an authority, and with certificates that it signed for a server and for a client."""
    folder, authority = tmp_path_factory.mktemp("pems"), Authority()
    (folder / "ca.pem").write_bytes("# T\u00fcrk\n".encode() + authority.certificate)
    (folder / "other.pem").write_bytes(Authority("other").certificate)
    for name in ("server", "client"):
        pair = authority.make(for_client=name == "client")
        (folder / f"{name}.pem").write_bytes(pair.certificate)
        write_key(folder / f"{name}.key", pair.key)
    write_key(folder / "locked.key", encrypted(pair.key))
    write_key(folder / "open.key", pair.key).chmod(0o644)
    return folder


def private(path, text):
    """A token file as its owner makes it."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def server_credentials(pems, *, mutual=False):
    pair = ((pems / "server.key").read_bytes(), (pems / "server.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (pems / "ca.pem").read_bytes() if mutual else None, mutual)


def own(pems):
    return {"certificate_file": pems / "client.pem", "key_file": pems / "client.key"}


@pytest.fixture
def tls_server(pems):
    servicer = Scripted()
    with scripted_server(servicer, credentials=server_credentials(pems)) as address:
        yield address, servicer


async def test_a_client_encrypts_and_sends_its_token(tls_server, pems):
    address, servicer = tls_server
    with Client(address, ca_file=pems / "ca.pem", token="sesame") as client:
        assert client.info().backend == "scripted"
        client.wait_for_ready(20)
    async with AsyncClient(address, ca_file=pems / "ca.pem", token="sesame") as other:
        assert (await other.info()).backend == "scripted"
        await other.wait_for_ready(20)
    assert [metadata["authorization"] for metadata in servicer.metadata] == ["Bearer sesame"] * 4


@pytest.mark.parametrize("access", [{}, {"tls": True}, {"ca_file": "other.pem"}])
def test_a_server_that_is_not_trusted_gets_no_request(tls_server, pems, access):
    address, servicer = tls_server
    access = {name: pems / value if name == "ca_file" else value for name, value in access.items()}
    with Client(address, token="sesame", **access) as client, pytest.raises(UnavailableError):
        client.info()
    assert servicer.attempts == 0


def test_a_client_shows_its_certificate(pems):
    servicer = Scripted()
    with scripted_server(servicer, credentials=server_credentials(pems, mutual=True)) as address:
        with Client(address, ca_file=pems / "ca.pem", **own(pems)) as client:
            client.info()
        with Client(address, ca_file=pems / "ca.pem") as client, pytest.raises(UnavailableError):
            client.info()
    assert servicer.attempts == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"ca_file": "missing.pem"}, "missing.pem .*No such file"),
        ({"ca_file": "client.key"}, "client.key: it holds no certificate"),
        ({"certificate_file": "client.pem"}, "give both"),
        ({"key_file": "client.key"}, "give both"),
        ({"certificate_file": "client.pem", "key_file": "server.key"}, "server.key: the key is not the certificate's"),
        ({"certificate_file": "client.pem", "key_file": "locked.key"}, "locked.key: the key is encrypted"),
        ({"certificate_file": "client.pem", "key_file": "open.key"}, "open.key is open to others"),
        ({"certificate_file": "server.pem", "key_file": "server.key"}, "unsuitable certificate purpose"),
    ],
)
def test_files_that_cannot_be_used_are_refused_before_any_call(pems, files, message):
    with pytest.raises(CredentialsError, match=message):
        Client(AWAY, **{name: pems / file for name, file in files.items()})


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.9.9.9:1"])
def test_a_token_may_stay_on_this_machine_in_plain_text(address):
    Client(address, token="sesame").close()


@pytest.mark.parametrize(
    "address",
    [AWAY, "10.0.0.1:1", "0.0.0.0:1", "localhost.example:1", "[2001:db8::1]:1", "dns://away.example/localhost:1"],
)
def test_a_token_leaves_this_machine_encrypted_or_by_request(pems, address):
    with pytest.raises(CredentialsError, match="unencrypted") as caught:
        Client(address, token="sesame")
    assert caught.value.reason == "PLAINTEXT_TOKEN"
    assert "sesame" not in str(caught.value)
    Client(address, token="sesame", insecure_token=True).close()
    Client(address, token="sesame", ca_file=pems / "ca.pem").close()


def test_a_token_file_is_read_again_for_every_call(tmp_path):
    file, servicer = private(tmp_path / "token", "first\n"), Scripted()
    with scripted_server(servicer) as address, Client(address, token_file=file) as client:
        client.info()
        file.write_text("second")
        client.info()
        file.chmod(0o644)
        with pytest.raises(CredentialsError, match="open to others"):
            client.info()
        file.unlink()
        with pytest.raises(CredentialsError, match="token cannot be read"):
            client.info()
    assert [metadata["authorization"] for metadata in servicer.metadata] == ["Bearer first", "Bearer second"]


@pytest.mark.parametrize(
    "text", ["", "\n", "two words", "se\nsame", "s\u00e9same", "ses,ame", "x" * (TOKEN_CHARACTERS_MAX + 1)]
)
def test_what_is_no_token_is_refused_and_not_shown(tmp_path, text):
    for access in ({"token": text}, {"token_file": private(tmp_path / "token", text)}):
        with pytest.raises(CredentialsError, match="no token") as caught:
            Client("127.0.0.1:1", **access)
        assert caught.value.reason == "INVALID_TOKEN"
        assert not text or text not in str(caught.value)
    Client("127.0.0.1:1", token="x" * TOKEN_CHARACTERS_MAX).close()


def test_one_token_is_enough(tmp_path):
    with pytest.raises(CredentialsError, match="choose one"):
        Client("127.0.0.1:1", token="a", token_file=tmp_path / "token")


def test_the_command_line_encrypts_and_says_who_calls(run, tls_server, pems, tmp_path, monkeypatch):
    address, servicer = tls_server
    file = private(tmp_path / "token", "from-the-file")
    code, out, _ = run("info", address, "--ca-file", pems / "ca.pem", "--token-file", file, "--json")
    assert (code, json.loads(out)["backend"]) == (0, "scripted")
    monkeypatch.setenv("FFNSEARCH_TOKEN", "from-the-environment")
    code, _, _ = run("info", address, "--ca-file", pems / "ca.pem", "--snapshot", "plays", "--json")
    assert code == 0
    assert [metadata["authorization"] for metadata in servicer.metadata] == [
        "Bearer from-the-file",
        "Bearer from-the-environment",
    ]
    assert [request.snapshot for request in servicer.requests] == ["", "plays"]
    code, _, err = run("info", AWAY)
    assert code == 2
    assert "--insecure-token" in err
    assert "environment" not in err


NO_ADDRESSES = [
    *("", "nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:0", "127.0.0.1:65536", ":1", "a b:1"),
    *(
        "::1",
        "::1:50051",
        "[::1]",
        "[]:1",
        "http://127.0.0.1:1",
        "dns:",
        "unix:",
        "dns:///localhost",
        "ipv4:127.0.0.1:1,127.0.0.2",
    ),
]


@pytest.mark.parametrize("address", NO_ADDRESSES)
async def test_what_is_no_address_is_refused_before_anything_is_called(run, address):
    for client in (Client, AsyncClient, AdminClient):
        with pytest.raises(AddressError, match=r"is no address: give HOST:PORT|does not exist") as caught:
            client(address)
        assert address in caught.value.message
    code, _, err = run("info", address)
    assert code == 2
    assert re.fullmatch(r"error: (there is no snapshot at|port) .*\n", err)


@pytest.mark.parametrize("option", ["--ca-file", "--token-file", "--snapshot", "--timeout-s"])
def test_a_directory_takes_no_options_of_a_server(run, tiny_snapshot, option):
    for command in (("info",), ("predict", "a"), ("neighbors", "a", "--block", 0), ("bench",)):
        code, _, err = run(command[0], tiny_snapshot, *command[1:], option, 5)
        assert code == 2
        assert f"{option} is for calling a server" in err


def test_calls_name_their_snapshot(run):
    servicer = Scripted()
    with scripted_server(servicer) as address:
        with Client(address) as client:
            client.predict("a", snapshot="plays")
            list(client.neighbors("a", 0, snapshot="plays"))
            client.classes("a", 0, snapshot="plays")
            client.info(snapshot="plays")
            list(client.predict_many(["a"], snapshot="plays"))
        run("predict", address, "a", "--snapshot", "plays", "--json")
        run("neighbors", address, "a", "--block", 0, "--snapshot", "plays", "--json")
    assert [request.snapshot for request in servicer.requests] == ["plays"] * 7
