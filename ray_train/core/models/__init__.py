"""One factory for every network (R-M1): stamps in, one logit out; and what a network costs."""

from ray_train.core.models.cost import activation_bytes, forward_flops, parameter_count
from ray_train.core.models.factory import ARCHITECTURES, build_model, stem_of

__all__ = ["ARCHITECTURES", "activation_bytes", "build_model", "forward_flops", "parameter_count", "stem_of"]
