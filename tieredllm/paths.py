"""Find the places: the user's directories, and what ships with the package.

Nothing here creates a directory; whoever writes a file makes its parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

__all__ = ["Places", "shipped"]

APP = "tieredllm"


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Hold the four directories of one user."""

    config: Path
    data: Path
    state: Path
    cache: Path

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> Places:
        """Take the platform's own places, or all four under `TIEREDLLM_HOME`."""
        home = env.get("TIEREDLLM_HOME")
        if home:
            root = Path(home).expanduser()
            return cls(
                config=root / "config",
                data=root / "data",
                state=root / "state",
                cache=root / "cache",
            )
        import platformdirs

        dirs = platformdirs.PlatformDirs(APP, appauthor=False)
        return cls(
            config=Path(dirs.user_config_dir),
            data=Path(dirs.user_data_dir),
            state=Path(dirs.user_state_dir),
            cache=Path(dirs.user_cache_dir),
        )

    @property
    def profiles(self) -> Path:
        """Where the user's own profiles are."""
        return self.config / "profiles"

    @property
    def models(self) -> Path:
        """Where pulled model files are."""
        return self.data / "models"

    @property
    def state_db(self) -> Path:
        """The one SQLite file: health, history, learned parameters, outbox."""
        return self.state / "state.db"

    @property
    def keys_file(self) -> Path:
        """Where `keys set` keeps API keys (mode 0600)."""
        return self.config / "keys.yaml"


def shipped(folder: str) -> Path:
    """Give a folder that ships with tieredllm: `profiles` or `models`.

    In a wheel it lies inside the package (see `force-include` in pyproject.toml); in a checkout or
    an editable install it is the folder of that name at the top level.
    """
    package = Path(__file__).parent
    inside = package / "shipped" / folder
    return inside if inside.is_dir() else package.parent / folder
