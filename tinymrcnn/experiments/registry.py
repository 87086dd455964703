"""All experiments by name, the primary comparisons first: in this order `all` runs them."""

from tinymrcnn.experiments import table_2d
from tinymrcnn.experiments.plan import Plan

PLANS: dict[str, Plan] = {module.PLAN.name: module.PLAN for module in (table_2d,)}
