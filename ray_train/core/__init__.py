"""The part of training that needs torch, torchvision, numpy and nothing else.

It knows no Ray, no pydantic and no storage: it gets arrays, functions that read row groups, and a run context. So
it runs as it is on a machine that has only PyTorch (docs/architecture.md, section 2).
"""
