"""Whether requests are logged at all: a person's own decision, for every command."""

from __future__ import annotations

from tieredllm.errors import TieredLLMError
from tieredllm.files import Places

__all__ = ["LogSwitch"]


class LogSwitch:
    """The file `log-off` in the configuration directory: while it is there nothing is logged.

    Args:
        places: the user's directories.
    """

    def __init__(self, places: Places) -> None:
        self._file = places.config / "log-off"

    @property
    def is_off(self) -> bool:
        """Whether nothing is logged."""
        return self._file.exists()

    def turn_off(self) -> None:
        """Log nothing from now on.

        Raises:
            TieredLLMError: that cannot be remembered.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file.touch()
        except OSError as exc:
            raise TieredLLMError(f"cannot write {self._file}: {exc.strerror or exc}") from exc

    def turn_on(self) -> None:
        """Log again.

        Raises:
            TieredLLMError: that cannot be remembered.
        """
        try:
            self._file.unlink(missing_ok=True)
        except OSError as exc:
            raise TieredLLMError(f"cannot remove {self._file}: {exc.strerror or exc}") from exc
