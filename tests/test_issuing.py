from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from quorate import issuing
from quorate.errors import DataError
from quorate.issuing import Pair

CA = issuing.authority("test ca", 30)
PLACES = Path("a.key"), Path("a.pem"), Path("ca.pem")
OTHER = issuing.authority("test ca", 30)


def read(pair: Pair) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pair.certificate)


@given(purpose=st.sampled_from(["server", "client"]), days=st.floats(0.1, 100))
@settings(max_examples=20, deadline=None)
def test_a_certificate_serves_one_purpose_and_signs_nothing(purpose, days):
    found = read(issuing.issue(CA, "somebody", purpose, days))
    usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    other = {"server": ExtendedKeyUsageOID.CLIENT_AUTH, "client": ExtendedKeyUsageOID.SERVER_AUTH}[purpose]
    assert len(list(usage)) == 1
    assert other not in usage
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not found.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign


@given(days=st.floats(0.1, 100))
@settings(max_examples=20, deadline=None)
def test_a_certificate_holds_now_and_no_longer_than_its_authority(days):
    found, now = read(issuing.issue(CA, "somebody", "client", days)), datetime.datetime.now(datetime.UTC)
    assert found.not_valid_before_utc < now - datetime.timedelta(hours=12)
    assert found.not_valid_after_utc <= read(CA).not_valid_after_utc
    wanted = min(now + datetime.timedelta(days=days), read(CA).not_valid_after_utc)
    assert abs(found.not_valid_after_utc - wanted) < datetime.timedelta(minutes=5)


def test_names_and_addresses_of_hosts_are_told_apart():
    hosts = ["fl.example.org", "10.0.0.1", "::1"]
    found = read(issuing.issue(CA, "server", "server", 1, hosts))
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["fl.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]


def test_what_belongs_together_is_whole():
    issuing.require_whole(issuing.issue(CA, "a", "client", 1), CA.certificate, PLACES)
    issuing.require_whole(CA, CA.certificate, PLACES)


@pytest.mark.parametrize(
    ("pair", "authority", "says"),
    [
        (issuing.issue(OTHER, "a", "client", 1), CA.certificate, "was not signed by the authority in `ca.pem`"),
        (Pair(CA.key, issuing.issue(CA, "a", "client", 1).certificate), CA.certificate, "do not belong together"),
        (Pair(b"nothing", CA.certificate), CA.certificate, "the key in `a.key` is damaged"),
        (Pair(CA.key, b"nothing"), CA.certificate, "the certificate in `a.pem` is damaged"),
        (CA, b"", "the authority's certificate in `ca.pem` is damaged"),
    ],
)
def test_what_does_not_belong_together_is_refused(pair, authority, says):
    with pytest.raises(DataError, match=says):
        issuing.require_whole(pair, authority, PLACES)


def test_a_key_is_not_shown_by_accident():
    assert "PRIVATE" not in repr(CA)
