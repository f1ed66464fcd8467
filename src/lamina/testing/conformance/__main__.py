"""`python -m lamina.testing.conformance KIND DIR`: prints what differs; exit code 1 if anything does, 2 for a wrong call."""

from __future__ import annotations

import sys
from pathlib import Path

from lamina.testing.conformance import KINDS, NoData, run


def main(argv: list[str]) -> int:
    if len(argv) != 2 or argv[0] not in KINDS:
        print(f"usage: python -m lamina.testing.conformance {{{','.join(KINDS)}}} DIR", file=sys.stderr)
        return 2
    passed = failed = 0
    try:
        for outcome in run(argv[0], Path(argv[1])):
            if outcome.passed:
                passed += 1
                continue
            failed += 1
            print(f"FAILED {outcome.name}")
            for difference in outcome.differences:
                print(f"    {difference}")
    except (NoData, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"error: the kind {argv[0]} is not available here: {error}", file=sys.stderr)
        return 2
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
