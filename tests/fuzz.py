"""Feeds damaged input to every reader: each gives a result or a PtqError, and nothing else.

    python tests/fuzz.py --seconds 600 --seed 1
    python tests/fuzz.py --seconds 600 --seed 1 --reader pipeline      the whole default pipeline
    python tests/fuzz.py --seed 1 --reader model --case 4711      one case again, with traceback

A case is a function of seed, reader and number: good input with a few random edits, of its bytes,
its words or the fields of its messages. What is found: exceptions that are not ours, errors that do
not name the file, more than SECONDS of processor time (or WAITING seconds) for one case, more than
MEMORY bytes. A crash of the process
leaves the case's input in the folder that is printed first.
"""

import argparse
import itertools
import logging
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from fuzz_edits import Chance
from fuzz_readers import READERS, Reader

from ptq_opt.ir import PtqError
from ptq_opt.passes.base import PassError

SECONDS = 10
WAITING = 120
MEMORY = 2 << 30


class TooSlow(BaseException):
    """A case that took too long; no reader may catch it."""


def late(*_: object) -> None:
    raise TooSlow("it takes too long")


def set_alarm(*, on: bool) -> None:
    """Raise TooSlow when time is over, until it is set off."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS * on)
    signal.setitimer(signal.ITIMER_REAL, WAITING * on)


def found(reader: Reader, folder: Path, *, show: bool = False) -> str | None:
    """What is wrong with how `reader` takes the file in `folder`."""
    set_alarm(on=True)
    try:
        reader.read(folder / reader.file)
    except PtqError as error:
        if show:
            print(f"refused: {error}")
        if isinstance(error, PassError) and not isinstance(error.__cause__, PtqError | None):
            return f"a pass crashed: {error}"
        named = not reader.named or reader.file.partition("/")[0] in str(error)
        return None if named else f"names no file: {error}"
    except (Exception, TooSlow) as error:
        if show:
            traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    finally:
        set_alarm(on=False)
    return None


def cases(readers: list[Reader], seed: int) -> Iterator[tuple[Reader, int, Chance]]:
    """All cases of a seed, readers by turns."""
    for number in itertools.count():
        for reader in readers:
            yield reader, number, Chance(f"{seed} {reader.name} {number}")


def keep_within(memory: int) -> None:
    """Let allocations beyond `memory` bytes fail."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, resource.RLIM_INFINITY))


def main() -> int:
    """Run cases until the time is over; the exit code tells whether something was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=[reader.name for reader in READERS])
    parser.add_argument("--case", type=int, help="Only this one.")
    parser.add_argument("--most", type=int, default=20, help="Findings after which it stops.")
    asked = parser.parse_args()
    readers = [
        r for r in READERS if asked.reader == r.name or (asked.reader is None and not r.slow)
    ]
    keep_within(MEMORY)
    signal.signal(signal.SIGPROF, late)
    signal.signal(signal.SIGALRM, late)
    logging.disable(logging.WARNING)
    findings: dict[str, int] = {}
    ran, until = 0, time.monotonic() + asked.seconds
    with tempfile.TemporaryDirectory(prefix="fuzz_") as name:
        print(f"cases are written to {name}", flush=True)
        for reader, number, chance in cases(readers, asked.seed):
            if asked.case is None and (time.monotonic() > until or len(findings) >= asked.most):
                break
            if asked.case not in (None, number):
                continue
            reader.write(Path(name), chance)
            wrong = found(reader, Path(name), show=asked.case is not None)
            ran += 1
            if wrong is not None and findings.setdefault(wrong[:60], number) == number:
                print(f"--seed {asked.seed} --reader {reader.name} --case {number}: {wrong[:300]}")
            if asked.case is not None and reader is readers[-1]:
                break
    print(f"{ran} cases, {len(findings)} findings")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
