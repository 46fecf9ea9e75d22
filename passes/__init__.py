"""Graph rewrites, one file each, and the small framework that runs them."""

from .base import Context, Pass, PassError, Report, Skip
from .driver import Rewriter, Rule, apply
from .pattern import Builder, Match, PatternPass, Variable
from .pipeline import Instruments, Pipeline

__all__ = [
    "Builder",
    "Context",
    "Instruments",
    "Match",
    "Pass",
    "PassError",
    "PatternPass",
    "Pipeline",
    "Report",
    "Rewriter",
    "Rule",
    "Skip",
    "Variable",
    "apply",
]
