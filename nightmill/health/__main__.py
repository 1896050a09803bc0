"""Asks the worker of this machine how it is, and exits with 0 or 1: the health check of an image without curl.

Imports the standard library's least, because it is started anew every few seconds.
"""

import os
import socket
import sys

BOUND = 4.0
"""Seconds to connect, and to wait for the answer: over the 2 s that a look may take, under the 5 s that a container's
health check usually gets."""

USAGE = "usage: python -m nightmill.health [--ready] [--port PORT] [--host HOST]"
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - who listens there is asked on loopback


def main(arguments: list[str]) -> int:
    """Print what the worker says, or why it says nothing; 0: it is well, 1: it is not, 2: wrong arguments.

    The address is that of `NIGHTMILL_WORKER__HOST` and `NIGHTMILL_WORKER__HEALTH_PORT` in the environment.
    """
    asked = {
        "--host": os.environ.get("NIGHTMILL_WORKER__HOST", ""),
        "--port": os.environ.get("NIGHTMILL_WORKER__HEALTH_PORT", "") or "8081",
    }
    path = "/healthz"
    given = iter(arguments)
    for argument in given:
        name, _, value = argument.partition("=")
        if argument == "--ready":
            path = "/readyz"
        elif name in asked:
            asked[name] = value or next(given, "")
        else:
            sys.stderr.write(f"{USAGE}\n")
            return 0 if argument in ("-h", "--help") else 2
    host, port = _EVERYWHERE.get(asked["--host"], asked["--host"]), asked["--port"]
    if not port.isdecimal() or not 0 < int(port) < 65536:
        why = "the worker serves no health" if port == "0" else "no port"
        sys.stderr.write(f"NIGHTMILL_WORKER__HEALTH_PORT is {port}: {why}\n")
        return 1
    try:
        status, body = _get(host, int(port), path)
    except OSError as error:
        sys.stderr.write(f"http://{host}:{port}{path}: {error.strerror or 'no answer'}\n")
        return 1
    sys.stdout.write(f"{body}\n")
    return 0 if status == "200" else 1


def _get(host: str, port: int, path: str) -> tuple[str, str]:
    """Return status and body of an answer.

    Raises:
        OSError: There is none, or not in time.
    """
    with socket.create_connection((host, port), BOUND) as connection:
        connection.settimeout(BOUND)
        # HTTP/1.0: the end of the answer is the end of the connection.
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while len(answer) < 65536 and (more := connection.recv(65536)):
            answer += more
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    return head.partition(" ")[2][:3], body.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
