"""What all sections of the settings share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of the nested settings: an unknown name is an error, so that a typo does not pass in silence."""

    model_config = ConfigDict(frozen=True, extra="forbid")
