"""One factory for every network (R-M1): stamps in, one logit out."""

from ray_train.core.models.factory import ARCHITECTURES, build_model, count_parameters, stem_of

__all__ = ["ARCHITECTURES", "build_model", "count_parameters", "stem_of"]
