"""Compose an experiment's config outside a stock command."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from anemoi_house.errors import HouseError, first_line
from anemoi_house.upstream.known_keys import check_keys


def composed(config_name: str, config_path: Path | None, overrides: Sequence[str]) -> DictConfig:
    """Compose an experiment's config as `anemoi-training` does, without resolving it.

    Parameters
    ----------
    config_name : str
        As after `--config-name`.
    config_path : Path or None
        Folder of the user's configs; None for those that plugins find.
    overrides : sequence of str
        In Hydra's syntax.

    Raises
    ------
    HouseError
        If the config does not exist, cannot be composed with these overrides, or has a key that nothing reads.
    """
    from hydra import compose, initialize, initialize_config_dir
    from hydra.errors import HydraException, MissingConfigException

    if config_path is not None and not config_path.is_dir():
        raise HouseError(f"--config-path: {config_path} is not a directory.")
    folder = config_path and str(config_path.absolute())
    with initialize_config_dir(folder, version_base=None) if folder else initialize(version_base=None):
        try:
            config = compose(config_name=config_name, overrides=list(overrides))
        except MissingConfigException as error:
            name = error.missing_cfg_file or config_name
            raise HouseError(
                f"there is no config '{name}' in {config_path or 'the working directory'}, in anemoi-house or in "
                f"anemoi-training. {_did_you_mean(name)}Correct the name, or give its folder with --config-path."
            ) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise HouseError(f"the config {config_name} cannot be composed: {error}") from None
    check_keys(config)
    return config


def _did_you_mean(name: str) -> str:
    """Return a question that names the closest existing config; empty if none is close. Hydra must be initialised."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.object_type import ObjectType

    group, _, last = name.rpartition("/")
    known = GlobalHydra.instance().config_loader().get_group_options(group, ObjectType.CONFIG)
    close = get_close_matches(last.removesuffix(".yaml"), known, n=1)
    return f"Did you mean '{group}{'/' if group else ''}{close[0]}'? " if close else ""


def validated(config: DictConfig, config_name: str) -> DictConfig:
    """Return a config as the stock trainer gets it: resolved, and validated by the stock schemas.

    Our resolvers check data, trim and start on the way.

    Parameters
    ----------
    config : DictConfig
        From `composed`; resolved in place.
    config_name : str
        For messages.

    Raises
    ------
    HouseError
        For any mistake found; in one line if one of our checks finds it.
    """
    from anemoi.training.schemas.base_schema import BaseSchema, convert_to_omegaconf
    from pydantic import ValidationError

    try:
        OmegaConf.resolve(config)
        valid: DictConfig = convert_to_omegaconf(BaseSchema(**{str(key): value for key, value in config.items()}))
    except HouseError as mistake:
        raise HouseError(first_line(mistake)) from None
    except ValidationError as error:
        raise HouseError(f"the config {config_name} is not valid: {error}") from None
    except OmegaConfBaseException as error:
        raise HouseError(f"the config {config_name} cannot be resolved: {first_line(error)}") from None
    return valid
