"""The exceptions that the federation package raises for anything a user can act on."""

from __future__ import annotations


class FederationError(Exception):
    """A federation could not be set up, reached or run; the text says why and what to do."""

    exit_code = 1


class SettingError(FederationError):
    """No run could follow a setting.

    Attributes
    ----------
    name, value, advice
        The setting, as it is called in :class:`federation.settings.RunSettings`.
    """

    exit_code = 2

    def __init__(self, name: str, value: object, advice: str) -> None:
        super().__init__(f"{name} is {value!r}: {advice}.")
        self.name, self.value, self.advice = name, value, advice
