"""A server listens beyond its machine only with TLS and tokens, or where somebody has asked for less."""

import pytest

from ffnsearch_service.address import host_of, is_loopback, listening_address
from ffnsearch_service.errors import AddressError

MISSING = {
    "both": ({}, "no TLS and no tokens: set [tls] certificate_file and key_file and [auth] tokens_file"),
    "TLS": ({"authenticated": True}, "no TLS: set [tls] certificate_file and key_file,"),
    "tokens": ({"encrypted": True}, "no tokens: set [auth] tokens_file,"),
}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", ""])
@pytest.mark.parametrize("missing", MISSING)
def test_what_is_missing_is_told(host, missing):
    given, says = MISSING[missing]
    with pytest.raises(AddressError) as caught:
        listening_address(host, 0, insecure_public=False, **given)
    assert caught.value.reason == "PUBLIC_ADDRESS"
    assert says in caught.value.message
    assert "--insecure-public" in caught.value.message


def test_tls_and_tokens_open_it():
    given = {"encrypted": True, "authenticated": True}
    assert listening_address("0.0.0.0", 0, insecure_public=False, **given) == "0.0.0.0:0"


@pytest.mark.parametrize("given", [given for given, _ in MISSING.values()])
def test_it_can_be_asked_for(given):
    assert listening_address("0.0.0.0", 0, insecure_public=True, **given) == "0.0.0.0:0"


def test_this_machine_needs_neither():
    assert listening_address("127.0.0.1", 0, insecure_public=False) == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("address", "host"),
    [("127.0.0.1:1", "127.0.0.1"), ("[::1]:50051", "::1"), ("example.com:443", "example.com"), ("::1", ":"), ("", "")],
)
def test_the_host_of_an_address(address, host):
    assert host_of(address) == host


def test_a_literal_address_with_a_zone_or_in_ipv4s_clothes_is_known():
    assert is_loopback("::1")
    assert not is_loopback("fe80::1%lo")
    assert not is_loopback("2130706433")
