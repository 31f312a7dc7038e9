"""Keys of a training's config that nothing reads, in the blocks that anemoi's schemas leave open."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError
from anemoi_house.shipped import config_folder
from anemoi_house.upstream import keys


def check_running(config: DictConfig) -> None:
    """Refuse keys that nothing reads, as `check_keys` does, in the training that runs in this process.

    Its config is composed again only if there may be such a key: while a config is resolved, it loses the references
    that make a key of a user's own valid.

    Parameters
    ----------
    config : DictConfig
        The whole config, which may be resolved in part.
    """
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    if HydraConfig.initialized() and any(_unread(OmegaConf.to_container(config, resolve=False))):
        running = HydraConfig.get()
        loader = GlobalHydra.instance().config_loader()
        overrides = [*running.overrides.hydra, *running.overrides.task]
        check_keys(loader.load_configuration(running.job.config_name, overrides, RunMode.RUN))


def check_keys(config: DictConfig) -> None:
    """Refuse keys that are neither anemoi's nor ours, and that no other setting refers to.

    A key of a user's own for interpolations, such as a list of variables, is valid, and so is one that begins with `_`.
    Blocks that are passed on to a function or class, such as `dataset_config`, are left to it.

    Parameters
    ----------
    config : DictConfig
        The whole config, before interpolations are resolved.

    Raises
    ------
    HouseError
        One line for each such key.
    """
    if unread := [_message(*each) for each in _unread(OmegaConf.to_container(config, resolve=False))]:
        raise HouseError("\n".join(unread))


def _unread(config: Any) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield block, name and known names of each key that nothing reads."""
    texts: list[str] | None = None
    for block in keys.OPEN_BLOCKS:
        found = keys.get(config, block)
        if not isinstance(found, Mapping) or "_target_" in found:
            continue
        if block == keys.DATASETS and keys.get(config, keys.NESTED) is None:
            continue  # names of a user's own, for datasets of another kind
        for name in map(str, found.keys() - _known(block)):
            texts = list(_interpolated(config)) if texts is None else texts
            if not name.startswith("_") and not _is_referenced(block, name, texts):
                yield block, name, _known(block)


def _message(block: str, name: str, known: frozenset[str]) -> str:
    close = get_close_matches(name, known, n=1)
    way_out = f"Did you mean {block}.{close[0]}?" if close else f"Known keys: {', '.join(sorted(known))}."
    return f"{block}.{name}: nothing reads this key. {way_out}"


def _interpolated(config: Any) -> Iterator[str]:
    """Yield the texts of an unresolved config that hold an interpolation."""
    if isinstance(config, Mapping | list):
        for value in config.values() if isinstance(config, Mapping) else config:
            yield from _interpolated(value)
    elif isinstance(config, str) and "${" in config:
        yield config


def _is_referenced(block: str, name: str, texts: Iterable[str]) -> bool:
    """Return True if a text refers to a key: `block.name`, `block[name]`, `..name`, or `block.${...}`."""
    parent, key = re.escape(block.rpartition(".")[2]), re.escape(name)
    pattern = re.compile(rf"(?:\b{parent}|[.{{:,])[.\[](?:['\"]?{key}(?![\w-])|\$\{{)")
    return any(map(pattern.search, texts))


@cache
def _known(block: str) -> frozenset[str]:
    """Return the keys of a block in anemoi's schemas, and in the configs of anemoi and this package."""
    from anemoi.training.schemas.base_schema import BaseSchema

    model: Any = BaseSchema
    for part in block.split("."):
        fields = getattr(model, "model_fields", {})
        model = fields[part].annotation if part in fields else _value_of(model)
    shipped = (keys.get(content, block) for content in _shipped())
    names = (found.keys() for found in shipped if isinstance(found, Mapping))
    return frozenset(getattr(model, "model_fields", ())).union(*names) - {"defaults"}


def _value_of(annotation: Any) -> Any:
    """Return the type of a dict's values, also of a dict that may be None; None for another annotation."""
    choices = [each for each in (annotation, *get_args(annotation)) if get_origin(each) is dict]
    return get_args(choices[0])[-1] if choices else None


@cache
def _shipped() -> tuple[dict[str, Any], ...]:
    """Return the content of each config file of anemoi and of this package that can set a key of `OPEN_BLOCKS`."""
    import anemoi.training

    groups = {block.partition(".")[0] for block in keys.OPEN_BLOCKS}
    contents = []
    for folder in (config_folder(), Path(anemoi.training.__file__).parent / "config"):
        for path in sorted(folder.rglob("*.yaml")):
            package = path.relative_to(folder).parts[:-1]
            if not package or package[0] in groups:
                content = yaml.load(path.read_text(), yaml.CSafeLoader)
                for part in reversed(package):
                    content = {part: content}
                contents.append(content or {})
    return tuple(contents)
