"""What a zygote's helper reads from our side and answers: a length and JSON, then lines of JSON. Stands alone."""

import json
import os
import struct


def read_spec(connection):
    """(its length as it came, its JSON)."""
    header = read_exactly(connection, 4)
    return header, read_exactly(connection, struct.unpack("!I", header)[0])


def read_exactly(connection, count):
    """Ends the process where the other side is gone."""
    parts = []
    while count:
        data = connection.recv(min(count, 1 << 20))
        if not data:
            os._exit(0)
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def answer(connection, report):
    try:
        connection.sendall(json.dumps(report).encode() + b"\n")
    except OSError:
        pass
