"""Python imports this at its start where the folder is on its path: connections that leave the machine fail.

The tests' own process imports it too, so one rule holds for both.
"""

import socket
from typing import Any

_WITHIN = ("127.", "::1", "localhost")
_connect, _resolve = socket.socket.connect, socket.getaddrinfo


def _refuse(host: object) -> None:
    raise RuntimeError(f"the tests may not use the network, and something asked for {host!r}")


def _guarded_connect(self: socket.socket, address: Any) -> None:
    if self.family != socket.AF_UNIX and not str(address[0]).startswith(_WITHIN):
        _refuse(address)
    _connect(self, address)


def _guarded_resolve(host: Any, *rest: Any, **named: Any) -> Any:
    if host and not str(host).startswith(_WITHIN):
        _refuse(host)
    return _resolve(host, *rest, **named)


socket.socket.connect = _guarded_connect  # type: ignore[method-assign, assignment]
socket.socket.connect_ex = _guarded_connect  # type: ignore[method-assign, assignment]
socket.getaddrinfo = _guarded_resolve
