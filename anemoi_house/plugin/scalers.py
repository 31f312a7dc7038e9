"""Loss scalers: weights of the nodes of a nested grid."""

from __future__ import annotations

import torch
from anemoi.training.losses.scalers import ReweightedGraphNodeAttributeScaler


class AreaReweightedScaler(ReweightedGraphNodeAttributeScaler):
    """Weight nodes by area, with a given share of the total on the nodes of a mask.

    A drop-in replacement for the stock `ReweightedGraphNodeAttributeScaler`. The stock scaler (anemoi-training 0.17)
    gives all masked nodes the same weight, regardless of their areas, and writes the result into the graph that is
    saved in the checkpoint. Here the masked nodes keep their relative weights, and the graph is not changed.
    """

    def reweight_attribute_values(self, values: torch.Tensor) -> torch.Tensor:
        """Scale the weights so that their sum over the mask is `weight_frac_of_total` of the total.

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
