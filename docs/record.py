"""Puts what the demo really prints into README.md, between the first ```text fence and its end.

.venv/bin/python docs/record.py [LAMINA]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "# Do it", "# And later"


def main(lamina: str) -> int:
    shown = subprocess.run(["bash", str(ROOT / "demo/run.sh"), lamina], capture_output=True, text=True, check=True).stdout
    recording = shown[shown.index(BEGIN) : shown.index(END)].rstrip()
    page = ROOT / "README.md"
    before, fence, rest = page.read_text().partition("```text\n")
    _, end, after = rest.partition("```\n")
    page.write_text(before + fence + recording + "\n" + end + after)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / ".venv/bin/lamina")))
