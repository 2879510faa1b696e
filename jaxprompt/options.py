"""What every section of a config is."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Frozen, validated values; unknown keys, other types (`true` for a number) and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False, strict=True)
