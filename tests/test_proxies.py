"""Which proxy an address is reached through, as people write the variables."""

from __future__ import annotations

import pytest

from tieredllm.proxies import UnusableProxyError, proxy_for

P = "http://proxy.example:3128"

NAMED = [
    ("https://a.example", {"HTTPS_PROXY": P}, (P, "HTTPS_PROXY")),
    ("https://a.example", {"https_proxy": P, "HTTPS_PROXY": "http://other"}, (P, "https_proxy")),
    ("http://a.example", {"HTTPS_PROXY": P}, None),
    ("http://a.example", {"HTTP_PROXY": P}, (P, "HTTP_PROXY")),
    ("http://a.example", {"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, None),
    ("http://a.example", {"http_proxy": P, "REQUEST_METHOD": "GET"}, (P, "http_proxy")),
    ("https://a.example", {"ALL_PROXY": P}, (P, "ALL_PROXY")),
    ("https://a.example", {"ALL_PROXY": P, "HTTPS_PROXY": "\r"}, (P, "ALL_PROXY")),
    ("https://a.example", {"HTTPS_PROXY": "proxy.example:3128\r"}, (P, "HTTPS_PROXY")),
    (
        "https://a.example",
        {"ALL_PROXY": "socks://127.0.0.1:1080/"},
        ("socks5://127.0.0.1:1080/", "ALL_PROXY"),
    ),
    ("https://a.example", {"ALL_PROXY": "SOCKS5h://h:1"}, ("SOCKS5h://h:1", "ALL_PROXY")),
    ("http://127.0.0.1:8000", {"ALL_PROXY": P}, None),
    ("http://127.9.9.9", {"ALL_PROXY": P}, None),
    ("http://[::1]:8000", {"ALL_PROXY": P}, None),
    ("http://[::ffff:127.0.0.1]", {"ALL_PROXY": P}, None),
    ("http://localhost", {"ALL_PROXY": P}, None),
    ("http://app.localhost.", {"ALL_PROXY": P}, None),
    ("http://0.0.0.0:1", {"ALL_PROXY": P}, None),
    ("http://localhost", {"ALL_PROXY": P, "TIEREDLLM_PROXY_LOOPBACK": "1"}, (P, "ALL_PROXY")),
    ("http://10.0.0.1", {"ALL_PROXY": P}, (P, "ALL_PROXY")),
]


@pytest.mark.parametrize(("url", "env", "expected"), NAMED)
def test_the_variable_for_the_scheme_names_the_proxy(url, env, expected):
    """Small letters win, then the scheme's own; this machine is reached directly."""
    found = proxy_for(url, env)

    assert (found and (found.url, found.variable)) == expected


EXCEPTED = [
    ("a.example", "http://a.example", True),
    ("a.example", "http://www.a.example", True),
    (".a.example", "http://www.a.example", True),
    (".a.example", "http://a.example", True),
    ("*.a.example", "http://www.a.example", True),
    ("a.example", "http://nota.example", False),
    ("A.Example", "http://a.EXAMPLE.", True),
    ("*", "http://a.example", True),
    ("b.example, *", "http://a.example", True),
    ("b.example a.example", "http://a.example", True),
    ("b.example,a.example\r", "http://a.example", True),
    ("a.example:8080", "http://a.example:8080", True),
    ("a.example:8080", "http://a.example", False),
    ("a.example:443", "https://a.example", True),
    ("https://a.example", "http://a.example", True),
    ("10.0.0.0/8", "http://10.2.3.4", True),
    ("10.0.0.0/8", "http://11.2.3.4", False),
    ("10.1.2.3/8", "http://10.2.3.4", True),
    ("10.0.0.5", "http://10.0.0.5:99", True),
    ("10.0.0.5:99", "http://10.0.0.5:98", False),
    ("10.0.0.0/8", "http://10.example", False),
    ("::/0", "http://[2001:db8::1]", True),
    ("::/0", "http://10.0.0.1", False),
    ("fd00::/8", "http://[fd12::1]", True),
    ("fd00::/8", "http://[fe80::1]", False),
    ("[2001:db8::1]", "http://[2001:db8:0::1]:9", True),
    ("2001:db8::1", "http://[2001:db8::1]", True),
    ("[2001:db8::1]:9", "http://[2001:db8::1]:9", True),
    ("[2001:db8::1]:9", "http://[2001:db8::1]", False),
    ("localhost,[::1", "http://a.example", False),
    ("10.0.0/x,::z/0,:,[,]", "http://a.example", False),
    ("", "http://a.example", False),
]


@pytest.mark.parametrize(("entries", "url", "excepted"), EXCEPTED)
def test_no_proxy_takes_names_networks_and_ports(entries, url, excepted):
    """What is none of these is passed over."""
    env = {"HTTP_PROXY": P, "HTTPS_PROXY": P, "NO_PROXY": entries}

    assert (proxy_for(url, env) is None) == excepted


@pytest.mark.parametrize(
    "value",
    [
        "gopher://h",
        "http://",
        "http://h:port",
        "http://[::1",
        "http://me:secret-1@h:0",
        "socks4://me:secret-1@h:1",
        "http://a b",
    ],
)
def test_a_value_that_is_no_proxy_names_its_variable(value):
    """And shows it, without a password."""
    with pytest.raises(UnusableProxyError, match="HTTPS_PROXY") as raised:
        proxy_for("https://a.example", {"HTTPS_PROXY": value})

    assert "secret-1" not in str(raised.value)


def test_a_proxy_is_shown_without_its_password():
    """By its host, its port and its variable."""
    found = proxy_for("https://a.example", {"ALL_PROXY": "http://me:secret-1@h:1"})

    assert str(found) == "the proxy h:1 (ALL_PROXY)"
    assert found.password == "secret-1"
