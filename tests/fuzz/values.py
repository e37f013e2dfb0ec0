"""Random D-Bus values of random or given types."""

from __future__ import annotations

import random
from typing import Any

from chdebugd.dbus_library import SignatureTree, Variant

RANGES = {"y": (0, 8), "n": (-15, 15), "q": (0, 16), "i": (-31, 31), "u": (0, 32)}
RANGES |= {"x": (-63, 63), "t": (0, 64)}
TYPES = ["s", "y", "b", "n", "q", "i", "u", "x", "t", "d", "o", "g", "h", "v", "as", "ay", "au"]
TYPES += ["a{sv}", "aa{sv}", "a{ss}", "(su)", "a(ss)", "ah", "aav", "a{s(uv)}", "(v)"]
TEXTS = ["", "a", "vm0", ".hidden", "x" * 300, "/dev/zero", "/proc/self/mem", "../../etc/passwd"]
TEXTS += ["off", "journal", "file:/dev/full", "pty", "drop", "\u202e", "\U0001f600" * 50, "%s%n"]
HUGE = 60_000


class Values:
    """A source of values; `n_fds` descriptors travel with the message."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.n_fds = 0

    def signature(self) -> str:
        """A few types, or none."""
        return "".join(self.random.choices(TYPES, k=self.random.randrange(4)))

    def body(self, signature: str) -> list[Any]:
        """A value for each type."""
        return [self._value(each) for each in SignatureTree._get(signature).types]

    def variant(self) -> Variant:
        """Of any one type."""
        signature = self.random.choice(TYPES)
        return Variant(signature, self.body(signature)[0])

    def text(self) -> str:
        """A name that someone may have meant, or none at all."""
        if self.random.random() < 0.7:
            return self.random.choice(TEXTS)
        return "".join(chr(self.random.randrange(1, 0xD800)) for _ in range(8))

    def _value(self, kind: Any) -> Any:
        token = kind.token
        if token in RANGES:
            low, bits = RANGES[token]
            return self._number(-(1 << -low) if low else 0, (1 << bits) - 1)
        match token:
            case "b":
                return self.random.random() < 0.5
            case "d":
                return self.random.choice([0.0, -1.5, 1e308, float("inf"), float("nan")])
            case "o":
                return self.random.choice(["/", "/org/chdebugd1", "/org/chdebugd1/vm/target"])
            case "g":
                return self.random.choice(["", "s", "a{sv}", "aaaaa{s(uv)}"])
            case "h":
                return self.random.randrange(self.n_fds + 2)
            case "v":
                return self.variant() if self.random.random() < 0.8 else Variant("s", self.text())
            case "(":
                return [self._value(child) for child in kind.children]
            case "a":
                return self._array(kind.children[0])
        return self.text()

    def _number(self, low: int, high: int) -> int:
        edges = [low, high, 0, 1, high // 2]
        return (
            self.random.choice(edges)
            if self.random.random() < 0.5
            else self.random.randint(low, high)
        )

    def _array(self, inner: Any) -> Any:
        if inner.token == "y":
            return self.random.randbytes(HUGE if self.random.random() < 0.05 else 5)
        if inner.token == "{":
            key, value = inner.children
            return {self._value(key): self._value(value) for _ in range(self.random.randrange(4))}
        count = HUGE // 10 if self.random.random() < 0.01 else self.random.randrange(4)
        if count > 4:
            return [self._value(inner)] * count
        return [self._value(inner) for _ in range(count)]
