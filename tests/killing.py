"""Runs a command line again and again, and kills it at random moments.

    python killing.py '[{"command": [...], "output": FILE, "work": FOLDER, "kills": N, ...}, ...]'

Every run is a fork of this process, which has imported everything but never computed, so that none
pays for imports. Prints JSON: how many runs were killed, and the digests of what was at the output
after each; the last is that of a run that was left alone.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import onnxruntime  # noqa: F401
import optuna  # noqa: F401
import scipy.optimize  # noqa: F401

from ptq_opt.tools import api, cli, render  # noqa: F401


def launched(command: list[str]) -> int:
    """A child that runs `command`."""
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it in the background
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    code = 1
    try:
        cli.main(command, standalone_mode=True)
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def ended(child: int, until: float) -> bool:
    while time.monotonic() < until:
        if os.waitpid(child, os.WNOHANG)[0]:
            return True
        time.sleep(0.002)
    return False


def killed(job: dict[str, Any]) -> dict[str, Any]:
    chance, output = random.Random(job["seed"]), Path(job["output"])
    with_signal = getattr(signal, job.get("signal", "SIGKILL"))
    kills, runs, codes, found = 0, 0, [], []
    while kills < job["kills"]:
        child = launched([*job["command"], "--work", f"{job['work']}{runs}"])
        if ended(child, time.monotonic() + chance.uniform(0, job["longest"])):
            runs += 1  # it was faster: the next one begins anew
        else:
            os.kill(child, with_signal)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            kills += 1
        found.append(digest(output))
        output.unlink(missing_ok=True)
    last = launched([*job["command"], "--work", f"{job['work']}{runs}"])
    codes.append(os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]))
    return {"kills": kills, "runs": runs, "codes": codes, "found": found, "last": digest(output)}


def digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


if __name__ == "__main__":
    print(json.dumps([killed(job) for job in json.loads(sys.argv[1])]))
