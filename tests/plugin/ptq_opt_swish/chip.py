"""A target of a third party, found through the entry point `ptq_opt.targets`."""

from pathlib import Path


def path() -> Path:
    """The file that describes it."""
    return Path(__file__).with_name("chip.toml")
