"""All experiments by name, the primary comparisons first: in this order `all` runs them."""

from types import ModuleType

from tinymrcnn.experiments import (
    at_full_size,
    figure_4,
    figure_6,
    inference_order,
    oracle,
    phase_map,
    table_1,
    table_2a,
    table_2b,
    table_2c,
    table_2d,
    table_2e,
    table_3,
)  # fmt: skip
from tinymrcnn.experiments.plan import Plan

TRAINED = (table_2d, table_2b, figure_6, table_2c, table_2e, table_2a, table_3, table_1, inference_order)
PLANS: dict[str, Plan] = {module.PLAN.name: module.PLAN for module in TRAINED}
# Without any training: run(quick), table(result), draw(result)
MEASURED: dict[str, ModuleType] = {"oracle": oracle, "phase-map": phase_map, "figure-4": figure_4}
FULL_SIZE = tuple(at_full_size.EXPERIMENTS)
