"""Weights in the loss, from the stock scalers of a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from omegaconf import DictConfig

from anemoi_house.upstream import keys


@dataclass(frozen=True)
class Weight:
    """Weight of a variable in the loss: the product of the loss's variable scalers."""

    variable: str
    param: str
    level: int | None
    weight: float


@dataclass(frozen=True)
class Loss:
    """Loss of a training, and its weights.

    Attributes
    ----------
    name : str
        Class.
    scalers : tuple of str
        Names of its scalers.
    weights : tuple of Weight
        Weights of the output variables, in the order of the data.
    lam_share : float or None
        The LAM's share of the sum of all node weights; None if nodes are weighted by area alone.
    """

    name: str
    scalers: tuple[str, ...]
    weights: tuple[Weight, ...]
    lam_share: float | None


def loss_of(
    config: DictConfig, variables: Sequence[str], metadata: dict[str, Any] | None
) -> tuple[Loss, tuple[str, ...]]:
    """Return the loss of a training, and the scalers left out because they need the statistics of the data.

    Parameters
    ----------
    config : DictConfig
        The whole config, validated.
    variables : sequence of str
        Of the dataset, in its order.
    metadata : dict or None
        The dataset's `variables_metadata`; None to derive parameters and levels from the names.
    """
    from anemoi.models.data_indices.collection import IndexCollection
    from anemoi.training.losses.scalers.variable import BaseVariableLossScaler
    from anemoi.training.utils.variables_metadata import ExtractVariableGroupAndLevel
    from hydra.utils import get_class, instantiate

    chosen, configs = keys.get(config, keys.LOSS), keys.get(config, keys.SCALERS)
    named = chosen.get("scalers", ())
    scalers = tuple(configs) if "*" in named else tuple(named)
    positions = {variable: index for index, variable in enumerate(variables)}
    indices: Any = IndexCollection(keys.get(config, keys.VARIABLES), positions)
    extractor = ExtractVariableGroupAndLevel(keys.get(config, keys.VARIABLE_GROUPS), metadata)
    outputs = indices.model.output.name_to_index
    factors = np.ones(max(outputs.values()) + 1)
    lam_share, left_out = None, []
    for name in scalers:
        scaler = configs[name]
        if issubclass(get_class(scaler._target_), BaseVariableLossScaler):
            try:
                made = instantiate(scaler, data_indices=indices, metadata_extractor=extractor)
            except TypeError:  # it needs the statistics too
                left_out.append(name)
                continue
            factors = factors * made.get_scaling()[1].numpy()[: len(factors)]
        elif (share := scaler.get("weight_frac_of_total")) is not None:
            lam_share = float(share)
    weights = []
    for variable, index in outputs.items():
        _, param, level = extractor.get_group_and_level(variable)
        weights.append(Weight(variable, param, None if level is None else int(level), float(factors[index])))
    return Loss(chosen._target_.rpartition(".")[2], scalers, tuple(weights), lam_share), tuple(left_out)
