import pytest

from webhook.backends.etcd_load import Page, read_all
from webhook.etcd.values import KeyValue
from webhook.rbac.errors import StoreError


def test_an_etcd_that_sends_the_same_page_for_ever() -> None:
    kvs = [KeyValue(b"/l/v1/a", b"", 1, 1, 1, 0), KeyValue(b"/l/v1/b", b"", 1, 1, 1, 0)]
    with pytest.raises(StoreError, match="etcd sends keys from /l/v1/a on"):
        read_all(b"/l/v1/", lambda _start, _limit, _revision: Page(7, kvs, is_last=False))
