"""Batches of augmented images, gathered from uint8 stores in one launch on a GPU.

The draw of an image depends on the state of the generator and the image's position in the batch
only, so that CPU, interpreter and GPU produce the same batch.
"""

from mammoth_compiled.kernels.augment.op import IMPLEMENTATIONS, augment, augment_op
from mammoth_compiled.kernels.augment.reference import crop_flip

__all__ = ["IMPLEMENTATIONS", "augment", "augment_op", "crop_flip"]
