"""Older checkpoints: what their settings were called."""

import dataclasses
from typing import Any

from tinymrcnn.models.config import Config

# Format 1 had one flat Config: the names that are not today's STAGE_FIELD, or the field's own
RENAMED = {"rpn_min_size": "rpn.min_proposal_size"}


def nested_config(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a Config of format 1, which was flat, in the stages of today."""
    from tinymrcnn.models.settings import find_field

    if "rpn" in fields:
        return fields
    nested = dataclasses.asdict(Config())
    for name, value in fields.items():
        stage, _, field = (RENAMED.get(name) or find_field(Config, name)).rpartition(".")
        (nested[stage] if stage else nested)[field] = value
    return nested
