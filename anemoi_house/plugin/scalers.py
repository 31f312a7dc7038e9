"""Loss scalers: weights of the nodes of a nested grid."""

from __future__ import annotations

import torch
from anemoi.training.losses.scalers import ReweightedGraphNodeAttributeScaler


class AreaReweightedScaler(ReweightedGraphNodeAttributeScaler):
    """Node weights by area, with a given share of the total on the nodes of a mask.

    A drop-in for the stock `ReweightedGraphNodeAttributeScaler`, which (anemoi-training 0.17) gives every
    masked node the same weight whatever its area, and writes the result into the graph that goes into the
    checkpoint. Here the masked nodes keep their weights relative to each other, and the graph is left alone.
    """

    def reweight_attribute_values(self, values: torch.Tensor) -> torch.Tensor:
        """Weights whose sum over the mask is `weight_frac_of_total` of the sum over all nodes.

        Parameters
        ----------
        values : torch.Tensor, shape (nodes,)
            Area weights.

        Returns
        -------
        torch.Tensor, shape (nodes,)
            A new tensor.
        """
        mask = self.nodes[self.scaling_mask_attribute_name].squeeze()
        inside, outside = values[mask].sum(), values[~mask].sum()
        share = self.weight_frac_of_total
        return torch.where(mask, values * (share / (1 - share) * outside / inside), values)
