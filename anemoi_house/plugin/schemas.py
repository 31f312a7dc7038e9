"""Strict schemas of our classes, and the function that makes anemoi-training's validation accept them.

anemoi-training validates its config with closed unions: it refuses any builder, post-processor, scaler or logger that
is not its own. `register` adds ours to these unions. They stay closed otherwise: a foreign target or a mistyped key is
refused as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from anemoi.graphs.schemas.base_graph import BaseGraphSchema, EdgeSchema, NodeSchema
from anemoi.graphs.schemas.normalise import ImplementedNormalisationSchema
from anemoi.training.schemas.base_schema import BaseSchema
from anemoi.training.schemas.diagnostics import DiagnosticsSchema, LoggingSchema, MlflowSchema
from anemoi.training.schemas.training import SingleTrainingSchema
from anemoi.utils.schemas import BaseModel
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, field_validator, model_validator

from anemoi_house.boundary.regions import REGIONS
from anemoi_house.boundary.widths import INNER_KM, OUTER_KM, ZONE_KM
from anemoi_house.graphs.coverage import CEILING, FLOOR, check_range, neighbours_or_auto, parse_neighbours
from anemoi_house.tracking.servers.azure_sign_in import IDENTITIES
from anemoi_house.tracking.servers.connect import check_uri
from anemoi_house.upstream.errors import CommandError, mistakes_as
from anemoi_house.upstream.graph import LAM_MASK
from anemoi_house.upstream.keys import DATA, HIDDEN


class HouseModel(BaseModel):
    """Base of our schemas: reports every mistake in our settings in one message."""

    @model_validator(mode="wrap")
    @classmethod
    def _one_message(cls, values: Any, handler: Callable[[Any], Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as errors:
            # A plain union tries every member on all settings: mistakes in those of other classes are not ours.
            if not isinstance(values, Mapping) or values.get("_target_") not in targets(cls):
                raise
            raise CommandError("\n".join(_explain(cls, error) for error in errors.errors())) from None


class NearestNeighboursModel(HouseModel):
    """Settings that our nearest-neighbour builders share."""

    parse: ClassVar[Callable[[object], Any]] = parse_neighbours

    num_nearest_neighbours: Any
    "Data nodes that each hidden node picks; with some builders `auto`, for the smallest sufficient number."
    source_mask_attr_name: str | None = None
    "Mask on the source nodes."
    target_mask_attr_name: str | None = None
    "Mask on the target nodes."

    @field_validator("num_nearest_neighbours")
    @classmethod
    def _neighbours(cls, value: Any) -> Any:
        with mistakes_as(ValueError):
            return cls.parse(value)


class BoundaryAwareKNNEdgesSchema(NearestNeighboursModel):
    """Settings of `anemoi_house.graphs.BoundaryAwareKNNEdges`."""

    parse: ClassVar[Callable[[object], Any]] = neighbours_or_auto

    target_: Literal["anemoi_house.graphs.BoundaryAwareKNNEdges"] = Field(..., alias="_target_")
    boundary_width_km: PositiveFloat = ZONE_KM
    "Width of the zone around the LAM in which no data node may be isolated."
    lam_mask_attr_name: str = LAM_MASK
    "Node attribute that marks the LAM."
    floor: PositiveInt = FLOOR
    "Smallest number of neighbours that `auto` considers."
    ceiling: PositiveInt = CEILING
    "Largest number of neighbours that `auto` considers."

    @model_validator(mode="after")
    def _range(self) -> Self:
        with mistakes_as(ValueError):
            check_range(self.floor, self.ceiling)
        return self


class CoveringKNNEdgesSchema(NearestNeighboursModel):
    """Settings of `anemoi_house.graphs.CoveringKNNEdges`."""

    target_: Literal["anemoi_house.graphs.CoveringKNNEdges"] = Field(..., alias="_target_")


class BoundaryRingSchema(HouseModel):
    """Settings of `anemoi_house.graphs.BoundaryRing`."""

    target_: Literal["anemoi_house.graphs.BoundaryRing"] = Field(..., alias="_target_")
    region: Literal[REGIONS]  # type: ignore[valid-type]
    "Region whose nodes get weights."
    inner_km: PositiveFloat = INNER_KM
    "Width of the ring inside the LAM's boundary."
    outer_km: PositiveFloat = OUTER_KM
    "Width of the ring outside it."
    lam_mask_attr_name: str = LAM_MASK
    "Node attribute that marks the LAM."
    weight_attr_name: str | None = "area_weight"
    "Node attribute that holds the weights; None for equal weights."
    norm: ImplementedNormalisationSchema | None = None
    "Normalisation of the weights."


class GraphRecordSchema(HouseModel):
    """Settings of `anemoi_house.graphs.GraphRecord`."""

    target_: Literal["anemoi_house.graphs.GraphRecord"] = Field(..., alias="_target_")
    data_name: str = DATA
    "Name of the data nodes."
    hidden_name: str = HIDDEN
    "Name of the hidden nodes."
    lam_mask_attr_name: str = LAM_MASK
    "Node attribute that marks the LAM."
    boundary_width_km: PositiveFloat = ZONE_KM
    "Width of the zone around the LAM in which isolated nodes are counted as on the rim."


class AreaReweightedScalerSchema(HouseModel):
    """Settings of `anemoi_house.plugin.scalers.AreaReweightedScaler`."""

    target_: Literal["anemoi_house.plugin.scalers.AreaReweightedScaler"] = Field(..., alias="_target_")
    nodes_attribute_name: str
    "Node attribute that holds the area weights."
    scaling_mask_attribute_name: str
    "Node attribute that marks the nodes with a given share."
    weight_frac_of_total: float = Field(gt=0, lt=1)
    "Share of the total weight on the marked nodes."
    norm: Literal["unit-sum", "unit-mean", "l1"] | None = None
    "Normalisation of all weights."
    inverse: bool = False
    "As in the stock scaler."


class SpooledMLflowLoggerSchema(HouseModel, MlflowSchema):
    """Settings of `anemoi_house.tracking.logger.SpooledMLflowLogger`, in addition to those of the stock logger."""

    target_: Literal["anemoi_house.tracking.logger.SpooledMLflowLogger"] = Field(..., alias="_target_")  # type: ignore[assignment]
    params: list[str] = Field(default_factory=list)
    "Settings to log as parameters: dotted keys, branches or shell patterns."
    finish_wait_s: float = Field(default=8, ge=0, le=600)
    "Longest wait at the end, in seconds, for the server to accept unsent records."

    @field_validator("tracking_uri")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value:
            with mistakes_as(ValueError):
                check_uri(value)
        return value or None


class AzureMLflowLoggerSchema(SpooledMLflowLoggerSchema):
    """Settings of `anemoi_house.tracking.logger.AzureMLflowLogger`."""

    target_: Literal["anemoi_house.tracking.logger.AzureMLflowLogger"] = Field(..., alias="_target_")  # type: ignore[assignment]
    aml_subscription_id: str | None = None
    "Subscription of the workspace."
    aml_resource_group: str | None = None
    "Resource group of the workspace."
    aml_workspace_name: str | None = None
    "Name of the workspace."
    identity: Literal[IDENTITIES] = "default"  # type: ignore[valid-type]
    "How to sign in."


@cache
def register() -> None:
    """Make anemoi-training's validation accept our classes, once per process."""
    accept(
        (NodeSchema, "attributes", BoundaryRingSchema),
        (EdgeSchema, "edge_builders", BoundaryAwareKNNEdgesSchema, CoveringKNNEdgesSchema),
        (BaseGraphSchema, "post_processors", GraphRecordSchema),
        (SingleTrainingSchema, "scalers", AreaReweightedScalerSchema),
        (LoggingSchema, "mlflow", SpooledMLflowLoggerSchema, AzureMLflowLoggerSchema),
    )


def accept(*additions: tuple[Any, ...]) -> None:
    """Make anemoi-training's validation accept further schemas.

    Parameters
    ----------
    *additions : tuple
        A model of anemoi's, the name of its field that is a closed union, and the schemas to add to the union. A
        subclass has its own fields: name the model that is used, `SingleTrainingSchema` rather than its base.
    """
    for model, field, *members in additions:
        info = model.model_fields[field]
        info.annotation = widened(info.annotation, tuple(members))
    # Inner models first: a model copies the core schemas of its members when it is built.
    stock = (NodeSchema, EdgeSchema, BaseGraphSchema, SingleTrainingSchema, LoggingSchema, DiagnosticsSchema)
    for model in (*(model for model, *_ in additions), *stock, BaseSchema):
        model.model_rebuild(force=True)


def widened(annotation: Any, members: tuple[type, ...]) -> Any:
    """Return an annotation whose innermost union, inside lists and dict values, also accepts `members`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(widened(arguments[0], members), *arguments[1:])]
    if origin is list:
        return list[widened(arguments[0], members)]  # type: ignore[misc]
    if origin is dict:
        return dict[arguments[0], widened(arguments[1], members)]  # type: ignore[valid-type, misc]
    if any(get_origin(argument) is dict for argument in arguments):  # dicts of several forms, or none at all
        parts = (widened(one, members) if get_origin(one) is dict else one for one in arguments)
        return Union[tuple(parts)]  # noqa: UP007
    return Union[(*arguments, *members)]


def targets(model: type[BaseModel]) -> tuple[str, ...]:
    """Return the values of `_target_` that a schema is for."""
    return get_args(model.model_fields["target_"].annotation)


def _explain(model: type[BaseModel], error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    (name, *_) = targets(model)
    keys = sorted(field.alias or key for key, field in model.model_fields.items())
    if error["type"] == "extra_forbidden":
        close = get_close_matches(key, keys, n=1)
        meant = f"did you mean '{close[0]}'?" if close else f"it knows {', '.join(keys)}."
        return f"{name} has no setting '{key}'; {meant}"
    if error["type"] == "missing":
        return f"{name} needs the setting '{key}'."
    if error["type"] == "value_error":
        return f"{name}: {error['ctx']['error']}"
    return f"{name}: {key}: {error['input']!r} is invalid: {error['msg']}."
