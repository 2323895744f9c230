"""Proxy variables of the application's containers, whatever the Docker client would write."""

from __future__ import annotations

from ansible_collections.crisper.stack.plugins.module_utils.model.environment import (
    proxy_environment,
)


def test_without_a_proxy_of_ours_every_proxy_variable_is_empty():
    found = proxy_environment({}, ["redis"], {"OTHER": "1"})
    assert set(found) == {
        *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"),
    }
    assert set(found.values()) == {""}


def test_the_stacks_own_services_need_no_proxy():
    proxies = {"https_proxy": "http://p:1", "no_proxy": "a.example, redis"}
    found = proxy_environment(proxies, ["redis", "qdrant"], {})
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://p:1"
    assert found["HTTP_PROXY"] == ""
    assert found["no_proxy"] == "a.example,redis,localhost,127.0.0.1,::1,qdrant"


def test_a_proxy_of_the_applications_own_counts_in_both_cases():
    """An empty http_proxy would undo HTTP_PROXY for clients that read the lower case first."""
    own = {"HTTP_PROXY": "http://own:1", "all_proxy": "socks5://own:2", "NO_PROXY": "x"}
    found = proxy_environment({"http_proxy": "http://p:1"}, ["redis"], own)
    assert found["http_proxy"] == found["HTTP_PROXY"] == "http://own:1"
    assert found["ALL_PROXY"] == found["all_proxy"] == "socks5://own:2"
    assert found["no_proxy"] == "x"
