import logging

from pelton import log


def test_urls_of_requests_are_not_told(monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", list(root.handlers))
    monkeypatch.setattr(root, "level", root.level)
    before = {name: logging.getLogger(name).level for name in ("httpx", "httpcore")}
    try:
        for name in before:
            logging.getLogger(name).setLevel(logging.NOTSET)
        log.setup("test")
        assert not logging.getLogger("httpx").isEnabledFor(logging.INFO)
        assert logging.getLogger("httpx").isEnabledFor(logging.WARNING)
        assert root.isEnabledFor(logging.INFO)
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        logging.getLogger().setLevel(logging.WARNING)
