"""Attributes of the data nodes that know where the nested boundary is: thin anemoi-graphs classes over `boundary`."""

from __future__ import annotations

from typing import Any

import torch
from anemoi.graphs.nodes.attributes.base_attributes import BaseNodeAttribute
from torch_geometric.data.storage import NodeStorage

from anemoi_house.boundary.regions import REGIONS, regions
from anemoi_house.boundary.widths import INNER_KM, OUTER_KM
from anemoi_house.geometry import signed_distance_km, to_cartesian
from anemoi_house.upstream.errors import CommandError, mistakes_as
from anemoi_house.upstream.graph import LAM_MASK, coordinates_of, mask_of


class BoundaryRing(BaseNodeAttribute):
    """Node weights in one region by distance from the LAM's boundary, and 0 elsewhere.

    The regions are `lam_interior`, `inner_ring`, `outer_ring` and `outside`; together they hold all nodes. With the
    stock `GraphNodeAttributeScaler` and the norm `unit-sum`, a loss or metric becomes the mean over a region.

    Parameters
    ----------
    region : str
        One of the four.
    inner_km, outer_km : float
        Widths of the rings inside and outside the boundary.
    lam_mask_attr_name : str
        Node attribute that is true in the LAM.
    weight_attr_name : str, optional
        Node attribute that holds weights, such as areas; None weights all nodes equally. Both attributes must come
        before this one in the config.
    norm : str, optional
        As in stock attributes.
    """

    def __init__(
        self,
        region: str,
        inner_km: float = INNER_KM,
        outer_km: float = OUTER_KM,
        lam_mask_attr_name: str = LAM_MASK,
        weight_attr_name: str | None = "area_weight",
        norm: str | None = None,
    ) -> None:
        super().__init__(norm=norm)
        if region not in REGIONS:
            raise CommandError(f"region: {region!r} is not one of {', '.join(REGIONS)}.")
        self.region = region
        self.inner_km = inner_km
        self.outer_km = outer_km
        self.lam_mask_attr_name = lam_mask_attr_name
        self.weight_attr_name = weight_attr_name

    def get_raw_values(self, nodes: NodeStorage, **kwargs: Any) -> torch.Tensor:
        """Return the weights of the region's nodes.

        Returns
        -------
        torch.Tensor, shape (nodes, 1)

        Raises
        ------
        CommandError
            If an attribute is missing, the LAM has no boundary, or one of the four regions is empty.
        """
        in_region = self._codes(nodes) == REGIONS.index(self.region)
        if self.weight_attr_name is None:
            return in_region[:, None]
        _check_attribute(nodes, "weight_attr_name", self.weight_attr_name)
        return torch.where(in_region, nodes[self.weight_attr_name].squeeze(), 0.0)[:, None]

    def _codes(self, nodes: NodeStorage) -> torch.Tensor:
        """Return the code of each node's region, computed once and then kept on the nodes.

        Names with a leading underscore are not saved with the graph.
        """
        key = f"_regions_{self.lam_mask_attr_name}_{self.inner_km:g}_{self.outer_km:g}"
        if key not in nodes:
            _check_attribute(nodes, "lam_mask_attr_name", self.lam_mask_attr_name)
            points, in_lam = to_cartesian(*coordinates_of(nodes)), mask_of(nodes, self.lam_mask_attr_name)
            with mistakes_as(CommandError, "BoundaryRing: "):
                distance = signed_distance_km(points, in_lam, max(self.inner_km, self.outer_km))
                codes = regions(distance, self.inner_km, self.outer_km)
            nodes[key] = torch.from_numpy(codes).to(nodes.x.device)
        return nodes[key]


def _check_attribute(nodes: NodeStorage, setting: str, name: str) -> None:
    if name not in nodes:
        raise CommandError(
            f"BoundaryRing: {setting}: the nodes have no attribute '{name}'. Add it to their attributes before this "
            "one, or name another one."
        )
