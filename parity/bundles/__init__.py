"""Golden bundles: what an engine is fed, what the reference gives, and how far correct runs are from it.

Only ``making`` needs torch.
"""
