"""A cache in a dict with memcached's add, gets and cas: for tests that look inside it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any


class DictCache:
    """Keeps everything for ever."""

    def __init__(self) -> None:
        self.items: dict[Any, tuple[Any, int]] = {}
        self._lock = threading.Lock()
        self._cas = 0

    def get(self, key: Any, default: Any = None) -> Any:
        found = self.items.get(key)
        return default if found is None else found[0]

    def get_many(self, keys: Iterable[Any]) -> dict[Any, Any]:
        return {key: self.items[key][0] for key in keys if key in self.items}

    def gets(self, key: Any) -> tuple[Any, int] | None:
        return self.items.get(key)

    def set(self, key: Any, value: Any, expire_s: int = 0) -> bool:
        with self._lock:
            self._cas += 1
            self.items[key] = (value, self._cas)
        return True

    def add(self, key: Any, value: Any, expire_s: int = 0) -> bool:
        with self._lock:
            if key in self.items:
                return False
            self._cas += 1
            self.items[key] = (value, self._cas)
        return True

    def cas(self, key: Any, value: Any, cas: int, expire_s: int = 0) -> bool:
        with self._lock:
            if key not in self.items or self.items[key][1] != cas:
                return False
            self._cas += 1
            self.items[key] = (value, self._cas)
        return True
