"""Feeds damaged input to every reader: each gives a result or a PtqError, and nothing else.

    python tests/fuzz.py --seconds 600 --seed 1
    python tests/fuzz.py --seconds 600 --seed 1 --reader pipeline      the whole default pipeline
    python tests/fuzz.py --seed 1 --reader model --case 4711      one case again, with traceback
    python tests/fuzz.py --seconds 600 --engine atheris      guided by the branches that are taken
    python tests/fuzz.py --reader model --file FILE      one file again, with traceback

A case is a function of seed, reader and number: good input with a few random edits, of its bytes,
its words or the fields of its messages. What is found: exceptions that are not ours, errors that do
not name the file, more than SECONDS of processor time (or WAITING seconds) for one case, more than
MEMORY bytes. A crash of the process leaves the case's input in the folder that is printed first.

Atheris (https://github.com/google/atheris, for CPython on Linux) edits what it kept: inputs that
took a branch, or got closer to passing a comparison, as none did before. Each reader has its share
of the seconds, here of processor time, and a process of its own, so that a crash ends no other.
Findings are kept as files.
"""

import argparse
import gc
import hashlib
import itertools
import logging
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import NoReturn

from fuzz_edits import Chance
from fuzz_readers import READERS, Reader

from ptq_opt.ir import PtqError
from ptq_opt.passes import registry
from ptq_opt.passes.base import PassError

SECONDS = 10
WAITING = 120
MEMORY = 2 << 30
LARGEST = 1 << 16
"""Bytes of an input that Atheris makes."""
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""Where cases are written: several times as many a second as on a disk."""


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


def by_chance(readers: list[Reader], seed: int, seconds: float, most: int, folder: Path) -> int:
    """Run cases until the time is over; how many findings there were."""
    findings: dict[str, int] = {}
    ran, until = 0, time.monotonic() + seconds
    for reader, number, chance in cases(readers, seed):
        if time.monotonic() > until or len(findings) >= most:
            break
        reader.write(folder, chance)
        wrong = found(reader, folder)
        ran += 1
        if wrong is not None and findings.setdefault(wrong[:60], number) == number:
            print(f"--seed {seed} --reader {reader.name} --case {number}: {wrong[:300]}")
    print(f"{ran} cases, {len(findings)} findings")
    return len(findings)


def guided(readers: list[Reader], seed: int, seconds: float, most: int, folder: Path) -> int:
    """Let Atheris make the cases of each reader; how many readers had findings."""
    import atheris

    for item in gc.get_objects():
        if isinstance(item, FunctionType) and (item.__module__ or "").startswith("ptq_opt."):
            atheris.instrument_func(item)
    failed = 0
    for reader in readers:
        own = folder / reader.name
        own.mkdir()
        if (child := os.fork()) == 0:
            guide(reader, seed, seconds / len(readers), most, own)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in (0, 1):
            print(f"{reader.name}: the process ended with {code}", (own / "log").read_text())
        failed += code != 0
    return failed


def guide(reader: Reader, seed: int, seconds: float, most: int, folder: Path) -> NoReturn:
    """Let Atheris make cases of one reader until the time is over, then end this process."""
    import atheris

    os.dup2(os.open(folder / "log", os.O_CREAT | os.O_WRONLY), sys.stderr.fileno())
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, data in enumerate(reader.seeds()):
        (corpus / f"seed_{number}").write_bytes(data)
    kept_as = f"{tempfile.gettempdir()}/fuzz_found_{reader.name}_"
    findings = set()
    ran, until = 0, time.process_time() + seconds

    def take(data: bytes) -> None:
        nonlocal ran
        if time.process_time() > until or len(findings) >= most:
            new = len(list(corpus.iterdir())) - len(reader.seeds())
            print(f"{reader.name}: {ran} cases, {new} went new ways, {len(findings)} findings")
            sys.stdout.flush()
            os._exit(bool(findings))
        reader.put(folder, data)
        wrong = found(reader, folder)
        ran += 1
        if wrong is not None and wrong[:60] not in findings:
            findings.add(wrong[:60])
            file = Path(kept_as + hashlib.sha256(data).hexdigest()[:12])
            file.write_bytes(data)
            print(f"--reader {reader.name} --file {file}: {wrong[:300]}", flush=True)

    def edit(data: bytes, most_bytes: int, number: int) -> bytes:
        chance = Chance(number)
        if chance.random() < 0.3:
            return atheris.Mutate(data, most_bytes)
        return reader.edit(data, chance)[:most_bytes]

    flags = [f"-seed={seed + 1}", f"-max_len={LARGEST}", f"-artifact_prefix={kept_as}"]
    limits = ["-rss_limit_mb=0"]  # `found` and `keep_within` have their own
    atheris.Setup(["fuzz", *flags, *limits, str(corpus)], take, custom_mutator=edit)
    atheris.Fuzz()
    raise AssertionError("Atheris goes on until `take` ends the process")


def main() -> int:
    """Run what is asked for; the exit code tells whether something was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["chance", "atheris"], default="chance")
    parser.add_argument("--reader", choices=[reader.name for reader in READERS])
    parser.add_argument("--case", type=int, help="Only this one.")
    parser.add_argument("--file", type=Path, help="Only this input of the reader.")
    parser.add_argument("--most", type=int, default=20, help="Findings after which it stops.")
    asked = parser.parse_args()
    if asked.engine == "atheris" and find_spec("atheris") is None:
        parser.error("Atheris is not installed: pip install atheris")
    if asked.reader is None and (asked.file or asked.case is not None):
        parser.error("--case and --file need a --reader")
    readers = [
        r for r in READERS if asked.reader == r.name or (asked.reader is None and not r.slow)
    ]
    keep_within(MEMORY)
    signal.signal(signal.SIGPROF, late)
    signal.signal(signal.SIGALRM, late)
    logging.disable(logging.WARNING)
    registry.third_party = cache(registry.third_party)  # else all packages are looked at each time
    with tempfile.TemporaryDirectory(prefix="fuzz_", dir=IN_MEMORY) as name:
        folder, reader = Path(name), readers[0]
        print(f"cases are written to {folder}", flush=True)
        if asked.file is not None:
            reader.put(folder, asked.file.read_bytes())
            return found(reader, folder, show=True) is not None
        if asked.case is not None:
            reader.write(folder, Chance(f"{asked.seed} {reader.name} {asked.case}"))
            return found(reader, folder, show=True) is not None
        engine = guided if asked.engine == "atheris" else by_chance
        return engine(readers, asked.seed, asked.seconds, asked.most, folder) > 0


if __name__ == "__main__":
    sys.exit(main())
