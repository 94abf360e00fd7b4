"""Errors that a person can act on.

Each says where the problem is, what was found, what was expected and what to do, and carries a stable code for
programs. `cli.main` turns them into exit codes; nothing below it prints or exits.
"""

from __future__ import annotations


class PancreasSegError(Exception):
    """Base of all errors this package raises on purpose.

    Parameters
    ----------
    code : str
        Stable machine-readable name, for example ``"input.not_3d"``.
    where : str or path-like
        The file, key or case at fault.
    found : str
        What was there.
    expected : str
        What should have been there.
    advice : str
        What to do about it.
    """

    exit_code = 1

    def __init__(self, code: str, *, where: object, found: str, expected: str, advice: str) -> None:
        self.code = code
        self.where = str(where)
        self.found = found
        self.expected = expected
        self.advice = advice
        super().__init__(f"{self.where}: found {found}; expected {expected}. {advice} [{code}]")

    @property
    def reason(self) -> str:
        """The message without the path, which may name a patient."""
        return f"Found {self.found}; expected {self.expected}. {self.advice}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.code, self.where, self.found, self.expected, self.advice)


def _rebuild(
    kind: type[PancreasSegError], code: str, where: str, found: str, expected: str, advice: str
) -> PancreasSegError:
    return kind(code, where=where, found=found, expected=expected, advice=advice)


class InputError(PancreasSegError):
    """An image or label file that is no sound 3D CT (or mask). Exit code 3."""

    exit_code = 3


class ManifestError(PancreasSegError):
    """A manifest that cannot be read or does not say what is needed. Exit code 3."""

    exit_code = 3


class ConfigError(PancreasSegError):
    """A wrong option, preset or configuration value. Exit code 2."""

    exit_code = 2


class WeightsError(PancreasSegError):
    """Weights that cannot be used: not safetensors, no configuration inside, or of another network. Exit code 2."""

    exit_code = 2


class TrainingError(PancreasSegError):
    """Training that cannot go on, such as a loss that is not finite. Exit code 1."""
