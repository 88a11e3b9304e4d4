"""segtrain: semantic segmentation with hard-pixel mining.

Shapes in comments and docstrings: B batch, C channels (classes), H and W height and width, N samples, K classes,
[B, *] one entry per pixel of a segmentation batch or per sample of a classification batch.
"""

__version__ = "0.1.0"
