"""Join tokens as text: read as written, refused otherwise, and never repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunefleet_shared.errors import ConfigError
from prunefleet_shared.join_token import JoinToken

ROOT, TOKEN_ID = "ab" * 32, "01" * 8
SECRET = bytes(range(200, 232))
TOKEN = JoinToken(ROOT, TOKEN_ID, SECRET, "ca.example:8471")
SECRET_TEXT = "yMnKy8zNzs_Q0dLT1NXW19jZ2tvc3d7f4OHi4-Tl5uc"  # noqa: S105 - of no fleet
TEXT = f"PF1{ROOT}::{TOKEN_ID}.{SECRET_TEXT}@ca.example:8471"


def test_the_text_is_as_documented():
    assert TOKEN.text() == TEXT
    assert JoinToken.parse(TEXT) == TOKEN


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=8, max_size=8))
def test_any_token_comes_back_the_same(secret, token_id):
    token = JoinToken(ROOT, token_id.hex(), secret, "10.0.0.7:8471")
    assert JoinToken.parse(token.text()) == token


@pytest.mark.parametrize("address", ["ca:1", "127.0.0.1:8471", "[::1]:8471", "a.b-c.example:65535"])
def test_addresses(address):
    assert JoinToken.parse(TEXT.replace("ca.example:8471", address)).address == address


@pytest.mark.parametrize("around", ["{}\n", "  {}\t", "\n{}\r\n"])
def test_white_space_around_it_does_no_harm(around):
    assert JoinToken.parse(around.format(TEXT)) == TOKEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        TEXT[1:],
        TEXT[:-1] + "x",
        TEXT.replace("PF1", "PF2"),
        TEXT.replace("PF1", "pf1"),
        TEXT.replace(ROOT, ROOT.upper()),
        TEXT.replace(ROOT, ROOT[:-1]),
        TEXT.replace("::", ":"),
        TEXT.replace(TOKEN_ID, TOKEN_ID + "0"),
        TEXT.replace(SECRET_TEXT, SECRET_TEXT[:-1]),
        TEXT.replace(SECRET_TEXT, SECRET_TEXT + "A"),
        TEXT.replace("_", "/"),
        TEXT.replace(SECRET_TEXT, SECRET_TEXT[:20] + " " + SECRET_TEXT[21:]),
        TEXT.replace("@ca.example:8471", ""),
        TEXT.replace(":8471", ""),
        TEXT.replace("8471", "65536"),
        TEXT.replace("8471", "8471a"),
        TEXT.replace("8471", "\u0668\u0664\u0667\u0661"),
        TEXT.replace("ca.example", "ca\x1b[2J"),
        TEXT.replace("ca.example", "a@b"),
        TEXT.replace("ca.example", "c" * 300),
        TEXT + "\n" + TEXT,
    ],
)
def test_what_is_no_token_is_the_users_to_mend_and_not_repeated(text):
    with pytest.raises(ConfigError, match="no join token") as caught:
        JoinToken.parse(text)
    assert SECRET_TEXT[:20] not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_a_token_does_not_print_its_secret():
    for printed in (repr(TOKEN), str(TOKEN), f"{TOKEN}"):
        assert SECRET_TEXT[:20] not in printed
        assert repr(SECRET)[2:20] not in printed
        assert "secret" not in printed
