"""A pass of a third party: one dataclass, found through the entry point `ptq_opt.passes`."""

from dataclasses import dataclass
from typing import ClassVar

from ptq_opt.passes import Builder, Match, PatternPass, Rewriter, Skip, Variable
from ptq_opt.passes.pattern import Operator


@dataclass(frozen=True)
class HardSwishForSwish(PatternPass):
    """Approximate x * sigmoid(x) by HardSwish, for engines that have no sigmoid."""

    name: ClassVar[str] = "hard-swish"
    requires: ClassVar[tuple[str, ...]] = ("canonical",)
    invalidates: ClassVar[tuple[str, ...]] = ("ranges", "plan")

    limit: int = 1000

    @staticmethod
    def pattern(p: Builder, x: Variable) -> Operator:
        """Match a value multiplied by its own sigmoid."""
        return p.Mul(x, p.Sigmoid(x))

    def rewrite(self, m: Match, rw: Rewriter) -> None:
        """Replace it, in graphs of at most `limit` operators."""
        if len(rw.graph) > self.limit:
            raise Skip(f"the graph has more than {self.limit} operators")
        rw.replace(m.root.output, rw.add("HardSwish", m.x, name=m.root.name, like=m.root.output))
