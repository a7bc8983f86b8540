"""pip's settings, read as pip prints them, and handed to uv."""

from __future__ import annotations

import pytest

from membound.bench.environments.package_index import parse, pip_settings, uv_arguments, uv_environment

PRINTED = """:env:.cert='/env/ca.pem'
:env:.find-links='/wheels'
global.cert='/file/ca.pem'
global.extra-index-url='https://a.example/simple https://b.example/simple'
global.find-links='/wheels /more'
global.index-url='https://file.example/simple'
install.no-index='true'
list.format='freeze'
"""


def test_sources_add_up_and_the_environment_wins_where_one_value_counts():
    assert parse(PRINTED) == {
        "cert": ["/env/ca.pem"],
        "extra-index-url": ["https://a.example/simple", "https://b.example/simple"],
        "find-links": ["/wheels", "/more"],
        "index-url": ["https://file.example/simple"],
        "no-index": ["true"],
    }
    assert parse("") == {}
    assert parse("global.find-links=/a\nglobal.cert='/b\n") == {"find-links": ["/a"], "cert": ["'/b"]}


def test_uv_gets_the_same_places_through_its_environment():
    assert uv_environment(parse(PRINTED), {}) == {
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_DEFAULT_INDEX": "https://file.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_NATIVE_TLS": "1",
        "SSL_CERT_FILE": "/env/ca.pem",
    }


def test_no_place_is_among_uvs_arguments():
    assert uv_arguments(parse(PRINTED)) == ["--no-index", "--index-strategy", "unsafe-best-match"]
    assert uv_arguments({}) == []
    assert uv_arguments({"no-index": ["0"]}) == []


def test_uv_trusts_what_pip_trusts():
    assert uv_environment({}, {"A": "b"}) == {"A": "b", "UV_NATIVE_TLS": "1"}


def test_variables_of_pip_are_read(monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://cpu.example/whl")
    assert "https://cpu.example/whl" in pip_settings()["extra-index-url"]


@pytest.mark.parametrize("line", ["no-index=''", "cert=", "cert='  '", "index-url=''"])
def test_an_empty_setting_is_none_as_pip_has_it(line: str) -> None:
    """PIP_CERT= in a container's variables ended `env create` in a traceback."""
    settings = parse(f"global.cert='/a b/c.pem'\n:env:.{line}\n")
    assert settings == {"cert": ["/a b/c.pem"]}
    assert uv_arguments(settings) == []
    assert uv_environment(settings, {}) == {"UV_NATIVE_TLS": "1", "SSL_CERT_FILE": "/a b/c.pem"}
