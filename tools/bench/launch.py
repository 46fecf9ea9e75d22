"""Run ``ptq-opt`` and write down the peak memory of the process.

``python -m ptq_opt.tools.bench.launch PEAK_FILE ARGUMENTS...``. The number comes from inside the
process because the resource usage a parent sees starts at the parent's own peak.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from ..cli import main

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Highest resident memory of this process so far; 0 where the system does not tell."""
    found = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return 1024 * int(found[1]) if found else 0


if __name__ == "__main__":
    peak_file = Path(sys.argv.pop(1))
    sys.argv[0] = "ptq-opt"
    try:
        main()
    finally:
        peak_file.write_text(str(peak_bytes()))
