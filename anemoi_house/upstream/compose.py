"""An experiment's config, outside a stock command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anemoi_house.errors import HouseError


def composed(config_name: str, config_path: Path | None, overrides: Sequence[str]) -> DictConfig:
    """An experiment's config, composed as `anemoi-training` composes it; nothing is resolved.

    Parameters
    ----------
    config_name : str
        As after `--config-name`.
    config_path : Path or None
        Folder of configs of one's own; None for those that plugins find.
    overrides : sequence of str
        In Hydra's grammar.

    Raises
    ------
    HouseError
        Where there is no such config, or it cannot be composed with these overrides.
    """
    from hydra import compose, initialize, initialize_config_dir
    from hydra.errors import HydraException, MissingConfigException

    if config_path is not None and not config_path.is_dir():
        raise HouseError(f"--config-path: {config_path} is no folder.")
    found = (
        initialize(version_base=None)
        if config_path is None
        else initialize_config_dir(version_base=None, config_dir=str(config_path.absolute()))
    )
    try:
        with found:
            return compose(config_name=config_name, overrides=list(overrides))
    except MissingConfigException as error:
        raise HouseError(
            f"there is no config '{error.missing_cfg_file or config_name}' in {config_path or 'the working folder'}, "
            "among those of anemoi-house, or of anemoi-training. Correct the name, or give its folder with "
            "--config-path."
        ) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise HouseError(f"the config {config_name} cannot be composed: {error}") from None


def validated(config: DictConfig, config_name: str) -> DictConfig:
    """A config as the stock trainer has it: resolved, which checks data, trim and start, and valid by its schemas.

    Parameters
    ----------
    config : DictConfig
        As `composed` gives it; it is resolved in place.
    config_name : str
        For messages.

    Raises
    ------
    HouseError
        For a mistake that is found on the way, in one line where it is ours to explain.
    """
    from anemoi.training.schemas.base_schema import BaseSchema, convert_to_omegaconf
    from pydantic import ValidationError

    try:
        OmegaConf.resolve(config)
        valid: DictConfig = convert_to_omegaconf(BaseSchema(**{str(key): value for key, value in config.items()}))
    except HouseError as mistake:
        raise HouseError(str(mistake).splitlines()[0]) from None
    except ValidationError as error:
        raise HouseError(f"the config {config_name} is not valid: {error}") from None
    except OmegaConfBaseException as error:
        raise HouseError(f"the config {config_name} cannot be resolved: {str(error).splitlines()[0]}") from None
    return valid
