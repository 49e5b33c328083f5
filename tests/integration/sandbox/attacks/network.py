"""Sockets. @PORT@, @ABSTRACT@ and @SOCKET@ are listeners that the test opened on this machine."""

from .case import attempts

SOCKETS = """
TCP | socket.socket()
UDP | socket.socket(type=socket.SOCK_DGRAM)
IPv6 | socket.socket(socket.AF_INET6)
Unix | socket.socket(socket.AF_UNIX)
netlink | socket.socket(16, 3, 0)
pair | socket.socketpair()
Unix path | socket.socket(socket.AF_UNIX).connect('@SOCKET@')
listen | socket.socket().listen()
datagram pair | socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
"""

CONNECTIONS = """
TCP connect | socket.create_connection(('127.0.0.1', @PORT@), 2)
HTTP | __import__('http.client').client.HTTPConnection('127.0.0.1', @PORT@, timeout=2).connect()
abstract socket | socket.socket(socket.AF_UNIX).connect('@ABSTRACT@')
bind | socket.create_server(('127.0.0.1', 0))
"""

HARMFUL = """
raw | socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
packet | socket.socket(17, 3, 0)
kernel cryptography | call(41, 38, 5, 0)
vsock | socket.socket(40, 1, 0)
resolver | socket.gethostbyname('name.invalid')
urlopen | __import__('urllib.request').request.urlopen('http://127.0.0.1:@PORT@', timeout=2)
"""


def _with_socket(table: str) -> str:
    return table.replace(" | ", " | import socket; ")


NETWORK = (
    *attempts("network", "seccomp", _with_socket(SOCKETS)),
    *attempts("network", "seccomp landlock", _with_socket(CONNECTIONS)),
    *attempts("network", "seccomp landlock capabilities", _with_socket(HARMFUL), teeth=False),
)
