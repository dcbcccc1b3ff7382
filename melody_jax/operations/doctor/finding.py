"""One line of what `melody doctor` says."""

import dataclasses

OK, WARNING, FAILURE = "ok", "warning", "failure"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A check and its result.

    Attributes:
      level: "ok", "warning" (training would run, perhaps not as meant) or "failure" (it would not, or in vain).
      check: what was looked at.
      measured: the figures, with units.
      advice: what to do; "" where all is well.
    """

    level: str
    check: str
    measured: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.level:<8} {self.check}: {self.measured}{advice}"


def ok(check: str, measured: str) -> Finding:
    """A finding without advice."""
    return Finding(OK, check, measured)


def judge(check: str, measured: str, advice: str, *, failure: bool = False, warning: bool = False) -> Finding:
    """A failure or a warning with `advice`, or, where neither holds, an ok without."""
    if failure or warning:
        return Finding(FAILURE if failure else WARNING, check, measured, advice)
    return ok(check, measured)
