"""Coverage-guided fuzzing of one target: python tests/fuzz/fuzz.py TARGET [SECONDS]. `make fuzz` runs them all.

Starts from the kept seeds; what is found on the way stays in a temporary folder, a crash is written beside it and named.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]  # an extra; without types

with atheris.instrument_imports(include=["lamina"]):
    import targets  # type: ignore[import-not-found, unused-ignore]  # beside this file, which is run by path

HERE = Path(__file__).parent


def main(name: str, seconds: str) -> None:
    target = targets.TARGETS[name]
    seeds = HERE / "seeds" / targets.SEEDS_OF.get(name, name)
    found = tempfile.mkdtemp(prefix=f"lamina-fuzz-{name}-")
    options = [f"-max_total_time={seconds}", "-max_len=16384", "-timeout=60", "-rss_limit_mb=2048", f"-artifact_prefix={found}/crash-"]
    print(f"fuzzing {name} for {seconds} s; what is found goes to {found}", flush=True)
    atheris.Setup([sys.argv[0], *options, found, str(seeds)], lambda data: targets.run(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "60")
