from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest
from anemoi.training.schemas.diagnostics import MlflowSchema
from omegaconf import OmegaConf
from pydantic import BaseModel, TypeAdapter, ValidationError

from anemoi_house import graphs
from anemoi_house.plugin import schemas
from anemoi_house.upstream.errors import CommandError

pytestmark = pytest.mark.usefixtures("registered")

TRACKING = {
    "enabled": True,
    "experiment_name": "nested",
    "project_name": "anemoi-house",
    "terminal": True,
    "http_max_retries": 35,
    "offline": False,
    "authentication": False,
    "log_model": False,
    "system": True,
    "run_name": "mmgt",
    "on_resume_create_child": False,
    "expand_hyperparams": ["config"],
}
OURS = {
    "edges": [
        {"_target_": "anemoi_house.graphs.BoundaryAwareKNNEdges", "num_nearest_neighbours": "auto", "floor": 12},
        {"_target_": "anemoi_house.graphs.CoveringKNNEdges", "num_nearest_neighbours": 12},
    ],
    "attributes": [{"_target_": "anemoi_house.graphs.BoundaryRing", "region": "inner_ring", "inner_km": 225}],
    "post_processors": [{"_target_": "anemoi_house.graphs.GraphRecord", "boundary_width_km": 1000}],
    "scalers": [
        {
            "_target_": "anemoi_house.plugin.scalers.AreaReweightedScaler",
            "nodes_attribute_name": "area_weight",
            "scaling_mask_attribute_name": "cutout_mask",
            "weight_frac_of_total": 0.5,
            "norm": "unit-sum",
        }
    ],
    "mlflow": [
        {
            "_target_": "anemoi_house.tracking.logger.SpooledMLflowLogger",
            **TRACKING,
            "tracking_uri": None,
            "params": ["training.max_steps"],
            "finish_wait_s": 8,
        },
        {
            "_target_": "anemoi_house.tracking.logger.AzureMLflowLogger",
            **TRACKING,
            "aml_resource_group": "group",
            "aml_workspace_name": "workspace",
            "identity": "managed",
        },
    ],
}
STOCK: dict[str, list[dict[str, Any]]] = {
    "edges": [
        {"_target_": "anemoi.graphs.edges.KNNEdges", "num_nearest_neighbours": 12},
        {"_target_": "anemoi.graphs.edges.ReversedKNNEdges", "num_nearest_neighbours": 1},
        {"_target_": "anemoi.graphs.edges.MultiScaleEdges", "x_hops": 1, "scale_resolutions": 5},
        {"_target_": "anemoi.graphs.edges.CutOffEdges", "cutoff_factor": 0.6},
    ],
    "attributes": [
        {"_target_": "anemoi.graphs.nodes.attributes.CutOutMask"},
        {"_target_": "anemoi.graphs.nodes.attributes.SphericalAreaWeights", "norm": "unit-max", "fill_value": 0},
    ],
    "post_processors": [
        {"_target_": "anemoi.graphs.processors.RemoveSelfEdges", "source_name": "a", "target_name": "b"}
    ],
    "scalers": [
        {
            **OURS["scalers"][0],
            "_target_": "anemoi.training.losses.scalers.ReweightedGraphNodeAttributeScaler",
        }
    ],
    "mlflow": [
        {
            **TRACKING,
            "_target_": "anemoi.training.diagnostics.mlflow.logger.AnemoiMLflowLogger",
        }
    ],
}


def owner(kind: str) -> tuple[type[BaseModel], str, Any]:
    """Return the model and field of the stock validation for a kind of settings, and how the field wraps them."""
    from anemoi.graphs.schemas.base_graph import BaseGraphSchema, EdgeSchema, NodeSchema
    from anemoi.training.schemas.diagnostics import LoggingSchema
    from anemoi.training.schemas.training import SingleTrainingSchema

    return {
        "attributes": (NodeSchema, "attributes", lambda one: {"region": one}),
        "edges": (EdgeSchema, "edge_builders", lambda one: [one]),
        "post_processors": (BaseGraphSchema, "post_processors", lambda one: [one]),
        "scalers": (SingleTrainingSchema, "scalers", lambda one: {"datasets": {"data": {"node_weights": one}}}),
        "mlflow": (LoggingSchema, "mlflow", OmegaConf.create),
    }[kind]


def validated(kind: str, settings: dict[str, Any]) -> Any:
    """Validate settings with the rebuilt model, ignoring the other fields it requires."""
    model, field, wrap = owner(kind)
    try:
        return getattr(model(**{field: wrap(settings)}), field)
    except ValidationError as errors:
        about_field = [error for error in errors.errors() if error["loc"][:1] in ((), (field,))]
        if not about_field:
            return None
        raise


def each(settings: dict[str, list[dict[str, Any]]]) -> Any:
    cases = [(kind, one) for kind, several in settings.items() for one in several]
    return pytest.mark.parametrize(
        ("kind", "settings"), cases, ids=[one["_target_"].split(".")[-1] for _, one in cases]
    )


@each(OURS)
def test_ours_are_accepted(kind: str, settings: dict[str, Any]) -> None:
    validated(kind, settings)


@each(STOCK)
def test_stock_ones_are_still_accepted(kind: str, settings: dict[str, Any]) -> None:
    validated(kind, settings)


@each({kind: several[:1] for kind, several in OURS.items()})
def test_foreign_targets_are_still_refused(kind: str, settings: dict[str, Any]) -> None:
    for target in ("somebody.elses.Class", settings["_target_"] + "s", "anemoi_house.Nothing"):
        with pytest.raises(ValidationError):
            validated(kind, {**settings, "_target_": target})


@each(STOCK)
def test_mistyped_keys_of_stock_ones_are_still_refused(kind: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validated(kind, {**settings, "num_neighbors_": 12})


@pytest.mark.parametrize(
    ("kind", "place", "mistyped", "meant"),
    [
        ("edges", 0, "num_nearest_neighbors", "num_nearest_neighbours"),
        ("edges", 0, "boundary_width", "boundary_width_km"),
        ("edges", 1, "source_mask_attr", "source_mask_attr_name"),
        ("attributes", 0, "inner_width_km", "inner_km"),
        ("post_processors", 0, "boundary_with_km", "boundary_width_km"),
        ("scalers", 0, "weight_frac_total", "weight_frac_of_total"),
    ],
)
def test_mistyped_key_gets_one_message(kind: str, place: int, mistyped: str, meant: str) -> None:
    settings = {**OURS[kind][place], mistyped: 1}
    with pytest.raises(CommandError) as caught:
        validated(kind, settings)
    assert str(caught.value) == f"{settings['_target_']} has no setting '{mistyped}'; did you mean '{meant}'?"


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, {"experiment_nam": "nested"}, "has no setting 'experiment_nam'; did you mean 'experiment_name'?"),
        (0, {"tracking_uri": "ftp://there"}, "ftp:// is not known. Give an address with one of http://, https://"),
        (0, {"tracking_uri": "https://me:pass@there"}, "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (0, {"finish_wait_s": -1}, "finish_wait_s: -1 is invalid"),
        (1, {"identity": "browser"}, "identity: 'browser' is invalid: Input should be 'default', 'service_principal'"),
        (1, {"workspace_name": "w"}, "has no setting 'workspace_name'; did you mean 'aml_workspace_name'?"),
    ],
)
def test_a_mistake_about_tracking_gets_one_message(place: int, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        validated("mlflow", {**OURS["mlflow"][place], **change})
    assert message in str(caught.value)
    assert ":pass@" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nearby": 3}, "has no setting 'nearby'; it knows _target_, boundary_width_km, ceiling, floor, "),
        (
            {"num_nearest_neighbours": 0},
            ": num_nearest_neighbours: 0 is not a valid number of neighbours; give a whole number",
        ),
        ({"num_nearest_neighbours": 2.5}, ": num_nearest_neighbours: 2.5 is not a valid number of neighbours"),
        ({"num_nearest_neighbours": "lots"}, ": num_nearest_neighbours: 'lots' is not a valid number of neighbours"),
        ({"boundary_width_km": -1}, ": boundary_width_km: -1 is invalid: Input should be greater than 0."),
        ({"boundary_width_km": "wide"}, ": boundary_width_km: 'wide' is invalid: Input should be a valid number"),
        ({"floor": 0}, ": floor: 0 is invalid: Input should be greater than 0."),
    ],
)
def test_bad_value_gets_one_message(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        validated("edges", {**OURS["edges"][0], **change})
    name = "anemoi_house.graphs.BoundaryAwareKNNEdges"
    assert str(caught.value).startswith(f"{name}{message}" if message.startswith(":") else f"{name} {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"region": "rim"},
            "region: 'rim' is invalid: Input should be 'lam_interior', 'inner_ring', 'outer_ring' or 'outside'",
        ),
        ({"inner_km": 0}, "inner_km: 0 is invalid: Input should be greater than 0"),
    ],
)
def test_a_mistake_about_a_ring_gets_one_message(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        validated("attributes", {**OURS["attributes"][0], **change})
    assert str(caught.value) == f"anemoi_house.graphs.BoundaryRing: {message}."


def test_nodes_may_still_go_without_attributes() -> None:
    from anemoi.graphs.schemas.base_graph import NodeSchema

    builder = {"_target_": "anemoi.graphs.nodes.AnemoiDatasetNodes", "dataset": "a.zarr"}
    assert NodeSchema(node_builder=builder, attributes=None).attributes is None


def test_missing_key_gets_one_message() -> None:
    with pytest.raises(CommandError) as caught:
        validated("edges", {"_target_": "anemoi_house.graphs.CoveringKNNEdges"})
    assert str(caught.value) == "anemoi_house.graphs.CoveringKNNEdges needs the setting 'num_nearest_neighbours'."


def test_several_mistakes_get_a_line_each() -> None:
    with pytest.raises(CommandError) as caught:
        validated("edges", {**OURS["edges"][1], "floor": 12, "num_nearest_neighbours": "auto"})
    assert sorted(str(caught.value).splitlines()) == [
        "anemoi_house.graphs.CoveringKNNEdges has no setting 'floor'; it knows _target_, num_nearest_neighbours, "
        "source_mask_attr_name, target_mask_attr_name.",
        "anemoi_house.graphs.CoveringKNNEdges: num_nearest_neighbours: 'auto' is not a valid number of neighbours; "
        "give a whole number of at least 1.",
    ]


@pytest.mark.parametrize("share", [0, 1, 1.5, -0.1])
def test_share_of_the_lam_is_a_share(share: float) -> None:
    with pytest.raises(CommandError, match="weight_frac_of_total"):
        validated("scalers", {**OURS["scalers"][0], "weight_frac_of_total": share})


def our_schemas() -> list[type[BaseModel]]:
    found = [value for value in vars(schemas).values() if isinstance(value, type) and issubclass(value, BaseModel)]
    return [schema for schema in found if schema.__module__ == schemas.__name__ and "target_" in schema.model_fields]


@pytest.mark.parametrize("schema", our_schemas())
def test_schema_has_the_arguments_of_its_class(schema: type[BaseModel]) -> None:
    (target,) = schemas.targets(schema)
    module, name = target.rsplit(".", 1)
    signature = inspect.signature(getattr(import_module(module), name))
    keys = {field.alias or key for key, field in schema.model_fields.items()} - {"_target_"}
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        # Stock passes further arguments: to a scaler those that all scalers get, to a logger all its settings.
        given = {"graph_data", "nodes_name", "output_mask", "kwargs", "save_dir", "settings"}
        assert {name for name in signature.parameters if name not in given} <= keys
        return
    # Stock adds the names of the nodes for edge builders, and the runs for a logger.
    given = {"source_name", "target_name"} if "Edges" in name else {"run_id", "fork_run_id"}
    assert set(signature.parameters) - given == keys - {"enabled"}
    for key, field in schema.model_fields.items():
        ours = key not in (*MlflowSchema.model_fields, "target_") and field.default_factory is None
        if ours and not field.is_required():
            assert signature.parameters[key].default == field.default


def test_every_class_of_our_graphs_has_a_schema() -> None:
    named = {target for schema in our_schemas() for target in schemas.targets(schema)}
    assert {f"anemoi_house.graphs.{name}" for name in graphs.__all__} <= named


def test_registering_again_makes_no_difference() -> None:
    from anemoi.graphs.schemas.base_graph import EdgeSchema

    before = str(EdgeSchema.model_fields["edge_builders"].annotation)
    schemas.register()
    assert str(EdgeSchema.model_fields["edge_builders"].annotation) == before
    assert before.count("CoveringKNNEdgesSchema") == 1


@pytest.mark.parametrize(
    ("annotation", "accepted"),
    [
        (int | str, [1, "a", 2.5]),
        (list[int | str], [[1, "a", 2.5]]),
        (dict[str, int | str], [{"a": 1, "b": 2.5}]),
        (dict[str, int | str] | dict[str, dict[str, int | str]], [{"a": 2.5}, {"datasets": {"a": 2.5, "b": "c"}}]),
    ],
)
def test_widened_annotation_takes_the_new_member(annotation: Any, accepted: list[Any]) -> None:
    widened = TypeAdapter(schemas.widened(annotation, (float,)))
    for value in accepted:
        assert widened.validate_python(value, strict=True) == value
    with pytest.raises(ValidationError):
        widened.validate_python(object())
