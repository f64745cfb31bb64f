"""CheckResult: what one physics check found, and how a list of checks is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

Check = Callable[..., "CheckResult"]
"""``check(subject) -> CheckResult``; the first line of its docstring is the law it checks."""

Progress = Callable[[int, int, str], None]
"""``progress(done, total, name)``, called before each check and once at the end."""


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check. It passes when ``value <= tolerance``; a NaN never passes.

    Attributes:
        name: the check, in words joined by hyphens.
        passed: whether the law holds within the tolerance (True for a skipped check).
        value: the figure compared, mostly a relative error.
        tolerance: the largest value that passes.
        detail: where the worst value was found, or why the check failed or was skipped.
        law: the law that is checked, one line.
        skipped: the check does not apply here (a calculator without stress, say).
    """

    name: str
    passed: bool
    value: float
    tolerance: float
    detail: str = ""
    law: str = ""
    skipped: bool = False

    def __str__(self) -> str:
        verdict = "skipped" if self.skipped else "passed" if self.passed else "FAILED"
        return f"{self.name} {verdict}: {self.value:.3g} (tolerance {self.tolerance:.3g}) {self.detail}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, for JSON."""
        return asdict(self)


def result(check: Check, value: float, tolerance: float, detail: str = "") -> CheckResult:
    """Return the outcome of ``check``: passed if ``value <= tolerance``."""
    value = float(value)
    return CheckResult(name_of(check), value <= tolerance, value, tolerance, detail, law_of(check))


def skipped(check: Check, reason: str) -> CheckResult:
    """Return the outcome of a check that does not apply."""
    return CheckResult(name_of(check), True, 0.0, 0.0, reason, law_of(check), skipped=True)


def name_of(check: Check) -> str:
    """Return ``forces-are-gradient`` for ``check_forces_are_gradient``."""
    return _function(check).__name__.removeprefix("check_").replace("_", "-")


def law_of(check: Check) -> str:
    """Return the first line of the docstring, without its full stop."""
    return (inspect.getdoc(_function(check)) or "").partition("\n")[0].rstrip(".")


def _function(check: Any) -> Any:
    return getattr(check, "func", check)


def run_checks(checks: Sequence[Check], subject: Any, progress: Progress | None = None) -> list[CheckResult]:
    """Run every check on ``subject``. A check that raises has failed; the others still run."""
    results: list[CheckResult] = []
    for index, check in enumerate(checks):
        if progress:
            progress(index, len(checks), name_of(check))
        try:
            results.append(check(subject))
        except Exception as error:
            reason = f"raised {type(error).__name__}: {' '.join(str(error).split())}"
            results.append(CheckResult(name_of(check), False, float("nan"), 0.0, reason, law_of(check)))
    if progress:
        progress(len(checks), len(checks), "")
    return results
