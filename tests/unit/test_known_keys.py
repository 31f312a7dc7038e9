"""Mistyped keys in the blocks that anemoi's schemas leave open."""

from __future__ import annotations

from pathlib import Path

import pytest
from anemoi.training.schemas.base_schema import BaseSchema
from omegaconf import DictConfig, OmegaConf

from anemoi_house.errors import HouseError
from anemoi_house.shipped import config_folder
from anemoi_house.upstream import keys
from anemoi_house.upstream.compose import composed
from anemoi_house.upstream.known_keys import check_keys

pytestmark = pytest.mark.usefixtures("registered", "hydra_cleared")

EXPERIMENTS = sorted(path.stem for path in config_folder().glob("*.yaml"))


def mistyped(name: str) -> list[str]:
    """Return a name with one letter less, one more, and two swapped."""
    middle = len(name) // 2
    swapped = name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :]
    return [each for each in (name[:middle] + name[middle + 1 :], f"{name}s", swapped) if each != name]


def test_keys_of_all_experiments_are_known() -> None:
    for name in EXPERIMENTS:
        composed(name, None, [])


def test_every_mistyped_key_of_an_open_block_is_refused_with_the_right_one() -> None:
    config = composed("tnbd", None, [])
    tried = 0
    for block in keys.OPEN_BLOCKS:
        for name in keys.get(config, block):
            for wrong in mistyped(str(name)):
                one = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
                OmegaConf.update(one, f"{block}.{wrong}", 1, force_add=True)
                with pytest.raises(HouseError) as mistake:
                    check_keys(one)
                assert str(mistake.value).startswith(f"{block}.{wrong}: nothing reads this key. Did you mean {block}.")
                tried += 1
    assert tried > 100


def test_open_blocks_are_those_that_the_schemas_leave_open() -> None:
    """A block of ours that anemoi closes, or opens, belongs out of the list, or into it."""
    found = set()

    def walk(model: type, path: tuple[str, ...], config: DictConfig) -> None:
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields") and name in config:
                if inner.model_config.get("extra") != "forbid":
                    found.add(".".join((*path, name)))
                walk(inner, (*path, name), config[name])

    walk(BaseSchema, (), composed("tnbd", None, []))
    others = {keys.VARIABLES, keys.DATASETS, "diagnostics.plot"}  # dictionaries and a union
    assert found - {"system.output.logs"} == set(keys.OPEN_BLOCKS) - others


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+dataloader.trimm=225 km", r"dataloader.trimm: nothing reads this key. Did you mean dataloader.trim\?"),
        ("+graph.encoder_neighbors=16", r"Did you mean graph.encoder_neighbours\?"),
        ("+data.datasets.data.diagnostics=[u80]", r"Did you mean data.datasets.data.diagnostic\?"),
        ("+system.input.dataset.hrrr=here", "Known keys: global, lam."),
    ],
)
def test_a_key_behind_a_plus_is_refused(override: str, message: str) -> None:
    with pytest.raises(HouseError, match=message):
        composed("tnbd", None, [override])


def test_a_key_in_a_config_of_the_users_own_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [tnbd, _self_]\ndataloader: {trimm: 225 km}\n")
    with pytest.raises(HouseError, match=r"dataloader\.trimm: nothing reads this key"):
        composed("mine", tmp_path, [])


@pytest.mark.parametrize(
    "reference",
    [
        "${data.surface}",
        "${.....surface}",
        "${oc.dict.values:data.surface}",
        "${data.surface.0}",
        "${data[surface]}",
        "${oc.select:data.surface,${data.frequency}}",
        "${data.${data.frequency}}",
    ],
)
def test_a_key_that_another_setting_refers_to_is_valid(reference: str) -> None:
    composed(
        "tnbd", None, ["+data.surface=[u80]", f"data.datasets.data.processors.normalizer.config.max='{reference}'"]
    )


def test_a_key_that_only_a_users_own_code_reads_begins_with_an_underscore() -> None:
    composed("tnbd", None, ["+data._mine=[u80]"])


def test_datasets_of_a_config_that_is_not_nested_have_names_of_their_own() -> None:
    composed("tnbd", None, ["+system.input.dataset.era5=here", "dataloader.nested=null"])
