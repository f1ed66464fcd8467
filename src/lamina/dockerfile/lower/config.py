"""Instructions that change only the image's config, and how each stands in its history."""

from __future__ import annotations

import re

import msgspec

from lamina.dockerfile.instructions import Healthcheck as HealthcheckInstruction
from lamina.dockerfile.lower.values import LoweringError
from lamina.oci.config import ContainerConfig, Healthcheck

DEFAULT_SHELL = ("/bin/sh", "-c")
_PROTOCOLS = ("tcp", "udp", "sctp")
_SIGNALS = frozenset(
    [
        "ABRT",
        "ALRM",
        "BUS",
        "CHLD",
        "CLD",
        "CONT",
        "FPE",
        "HUP",
        "ILL",
        "INT",
        "IO",
        "IOT",
        "KILL",
        "PIPE",
        "POLL",
        "PROF",
        "PWR",
        "QUIT",
        "SEGV",
        "STKFLT",
        "STOP",
        "SYS",
        "TERM",
        "TRAP",
        "TSTP",
        "TTIN",
        "TTOU",
        "URG",
        "USR1",
        "USR2",
        "VTALRM",
        "WINCH",
        "XCPU",
        "XFSZ",
        "RTMIN",
        "RTMAX",
    ]
    + [f"RTMIN+{n}" for n in range(1, 16)]
    + [f"RTMAX-{n}" for n in range(1, 15)]
)


def quoted_list(words: tuple[str, ...]) -> str:
    """Go's %q of a list: ["sh" "-c" "x"]."""
    return "[" + " ".join(go_quote(word) for word in words) + "]"


def go_quote(text: str) -> str:
    """Go's strconv.Quote."""
    names = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v", "\\": "\\\\", '"': '\\"'}
    out = []
    for char in text:
        if char in names:
            out.append(names[char])
        elif char.isprintable():
            out.append(char)
        elif ord(char) < 0x80:
            out.append(f"\\x{ord(char):02x}")
        else:
            out.append(f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}")
    return '"' + "".join(out) + '"'


def go_duration(nanoseconds: int) -> str:
    """Go's time.Duration.String: 1m30s, 0s, 1.5s, 100ms."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    digits = str(rest).zfill(len(str(unit)) - 1).rstrip("0")
    return f"{whole}.{digits}"


def ports(words: list[str]) -> list[str]:
    """`80`, `80/udp`, `80-82/tcp`, `127.0.0.1:80:8080` -> container ports `80/tcp`. LoweringError."""
    found: list[str] = []
    for word in words:
        spec, _, protocol = word.partition("/")
        protocol = protocol or "tcp"
        container = spec.rpartition(":")[2]
        if not container:
            raise LoweringError(f"EXPOSE {word}: no port is given")
        address, _, host = spec.rpartition(":")[0].rpartition(":")
        if address:
            _check_address(address, word)
        first, last = _range(container, word)
        if host:
            low, high = _range(host, word)
            if high - low != last - first and not (last == first):
                raise LoweringError(f"EXPOSE {word}: the ranges have different lengths")
        if protocol.lower() not in _PROTOCOLS:
            raise LoweringError(f"EXPOSE {word}: unknown protocol {protocol!r}", hint="tcp, udp or sctp")
        found.extend(f"{port}/{protocol.lower()}" for port in range(first, last + 1))
    return found


def _range(text: str, word: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    if not _is_number(low) or (dash and not _is_number(high)):
        raise LoweringError(f"EXPOSE {word}: {text!r} is not a port", hint="for example 8080, 53/udp or 8000-8010")
    first, last = int(low[:24]), int((high or low)[:24])
    if last < first or last > 65535:
        raise LoweringError(f"EXPOSE {word}: {text!r} is not a port")
    return first, last


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _check_address(text: str, word: str) -> None:
    from ipaddress import ip_address

    try:
        ip_address(text[1:-1] if text.startswith("[") and text.endswith("]") else text)
    except ValueError:
        raise LoweringError(f"EXPOSE {word}: {text!r} is not an IP address") from None


def check_signal(text: str) -> None:
    """A name with or without SIG, or a number other than 0. LoweringError."""
    digits = text[1:] if text[:1] in ("+", "-") else text
    if _is_number(digits):
        if not digits.strip("0"):
            raise LoweringError(f"STOPSIGNAL {text}: there is no such signal")
        return
    if re.sub(r"^SIG", "", text.upper()) not in _SIGNALS:
        raise LoweringError(f"STOPSIGNAL {text}: there is no such signal", hint="for example SIGTERM or 9")


def healthcheck(instruction: HealthcheckInstruction) -> tuple[Healthcheck, str]:
    test = instruction.test
    check = Healthcheck(
        test=test,
        interval=instruction.interval,
        timeout=instruction.timeout,
        start_period=instruction.start_period,
        start_interval=instruction.start_interval,
        retries=instruction.retries,
    )
    text = (
        f"HEALTHCHECK {{Test:[{' '.join(test)}] Interval:{go_duration(check.interval)} Timeout:{go_duration(check.timeout)} "
        f"StartPeriod:{go_duration(check.start_period)} StartInterval:{go_duration(check.start_interval)} Retries:{check.retries}}}"
    )
    return check, text


def command(words: tuple[str, ...], shell: bool, config: ContainerConfig) -> tuple[str, ...]:
    """A CMD or ENTRYPOINT: the shell form gets the stage's shell in front."""
    return (*(config.shell or DEFAULT_SHELL), " ".join(words)) if shell else words


def change(config: ContainerConfig, **values: object) -> ContainerConfig:
    return msgspec.structs.replace(config, **values)
