"""Users' mistakes that are found inside a stock command."""

from __future__ import annotations

from hydra.errors import CompactHydraException
from omegaconf.errors import InterpolationResolutionError

from anemoi_house.errors import HouseError


class CommandError(HouseError, CompactHydraException, SystemExit):
    """Ends a stock command with its message alone.

    `anemoi-training train` runs below Hydra, which prints a compact exception without its
    traceback; `anemoi-training config validate` and `anemoi-graphs create` do not, and there the
    interpreter does the same for a SystemExit. It is no ValueError, so that pydantic lets it through.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message


class ResolverError(CommandError, InterpolationResolutionError):
    """A mistake found while a value of the config is resolved; OmegaConf adds the key and passes it on."""
