"""Secrets in forms in parts (multipart/form-data): in the named field, and nowhere else."""

import email
import email.policy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloche.egress.bodysecrets import is_searched, put_in_body
from cloche.egress.requestrules import Secret

REAL = "s3cr3t/value+1"
PLACEHOLDER = "cloche-token-0123456789"
TYPE = b"multipart/form-data; boundary=xyz"


def filled(body: bytes, content_type: bytes = TYPE, real: str = REAL) -> bytes:
    secret = Secret()
    secret.name, secret.field, secret.value, secret.placeholder = "TOKEN", "key", real, PLACEHOLDER
    secret.check()
    return put_in_body([secret], [(b"content-type", content_type)], body)


def part(disposition: str, value: str = PLACEHOLDER, more: str = "") -> bytes:
    return f"--xyz\r\nContent-Disposition: {disposition}\r\n{more}\r\n{value}\r\n".encode()


END = b"--xyz--\r\n"


@pytest.mark.parametrize(
    "body",
    [
        part('form-data; name="key"') + END,
        part("form-data; name=key") + END,
        part('form-data; name="other"', "x") + part('form-data; name="key"', f"a {PLACEHOLDER} b") + END,
        part('FORM-DATA; NAME="key"', more="Content-Type: text/plain; charset=utf-8\r\n") + END,
        b"--xyz\r\nContent-Type: text/plain\r\ncontent-disposition:form-data;name=key\r\n\r\n"
        + PLACEHOLDER.encode()
        + b"\r\n--xyz--",
    ],
)
def test_the_field_is_filled(body: bytes) -> None:
    assert is_searched([(b"content-type", TYPE)])
    assert filled(body) == body.replace(PLACEHOLDER.encode(), REAL.encode())


@pytest.mark.parametrize(
    "body",
    [
        part('form-data; name="other"') + END,
        part('form-data; name="key"; filename="key"') + END,  # a file
        part('form-data; filename="key"; name="key"') + END,
        part('form-data; name="other"; name="key"') + END,
        part("form-data; name*=utf-8''key") + END,
        part('form-data; name="k\\ey"') + END,
        part('attachment; name="key"') + END,
        part('form-data; name="other"', more='Content-Disposition: form-data; name="key"\r\n') + END,
        part('form-data; name="key"', more='Content-Disposition: form-data; name="other"\r\n') + END,
        part('form-data; name="key"', more="Content-Transfer-Encoding: base64\r\n") + END,
        part('form-data; name="key"', more="Content-Type: multipart/mixed; boundary=q\r\n") + END,
        part('form-data;\r\n name="key"') + END,  # folded
        part('form-data; name="key"'),  # without an end
        part('form-data; name="key"') + b"--xyz-\r\n",
        b"preamble\r\n" + part('form-data; name="key"') + END,
        part('form-data; name="key"') + b"--xyz and more\r\n\r\n\r\n" + END,
        part('form-data; name="key"') + END + b"epilogue",
        b'--xyz\nContent-Disposition: form-data; name="key"\n\n' + PLACEHOLDER.encode() + b"\n--xyz--\n",
    ],
)
def test_what_may_be_read_differently_keeps_the_placeholder(body: bytes) -> None:
    assert filled(body) == body


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data",
        b"multipart/form-data; boundary=abc",
        b"multipart/form-data; boundary=xyz; boundary=abc",
        b'multipart/form-data; boundary="xyz',
        b"multipart/form-data; charset=utf-8; boundary=xyz",
        b"multipart/mixed; boundary=xyz",
    ],
)
def test_other_types_keep_the_placeholder(content_type: bytes) -> None:
    body = part('form-data; name="key"') + END
    assert filled(body, content_type) == body


def test_a_value_that_would_be_a_boundary_is_not_put_in() -> None:
    body = part('form-data; name="key"') + END
    assert filled(body, real="--xyz--secret") == body


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["key", "other", "key2"]),
            st.sampled_from(["", PLACEHOLDER, f"a{PLACEHOLDER}", "plain", "\r\n--xy", "\r\n\r\n"]),
            st.sampled_from(
                ["", "Content-Type: text/plain\r\n", "X-Odd: 1\r\n", "Content-Type: image/png\r\n"]
            ),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_another_reader_finds_it_in_that_field_alone(parts: list[tuple[str, str, str]]) -> None:
    """The standard library's parser is the other reader."""
    body = b"".join([part(f'form-data; name="{name}"', value, more) for name, value, more in parts]) + END
    made = filled(body)
    head = b"Content-Type: " + TYPE + b"\r\n\r\n"
    message = email.message_from_bytes(head + made, policy=email.policy.HTTP)
    for each in message.get_payload():
        name = each.get_param("name", header="content-disposition")  # type: ignore[union-attr]
        if REAL in each.as_string():  # type: ignore[union-attr]
            assert name == "key"
    assert made.replace(REAL.encode(), PLACEHOLDER.encode()) == body
