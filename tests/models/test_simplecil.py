"""SimpleCIL: cosines with class means of frozen features."""

import torch
from torch.nn import functional as F

from mammoth_compiled import load_runner


def test_scores_are_cosines_with_the_class_means(tiny, run_tiny):
    args = {"seed": 0, "n_epochs": 2}
    initial = load_runner("simplecil", "seq-tiny-augmented", args)[0].net.body.eval()
    model, _, _ = run_tiny("simplecil", "seq-tiny-augmented", **args)
    images, labels = (torch.from_numpy(part) for part in tiny.images(18, seed=1))
    with torch.no_grad():
        inputs = (images.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
        features = initial(inputs, returnt="features")  # without augmentation
        scores = model.net.eval()(inputs)
    means = torch.stack([features[labels == k].mean(0) for k in range(6)])
    expected = F.cosine_similarity(features[:, None], means[None], dim=2)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)


def test_unseen_classes_score_zero(tiny):
    model, _ = load_runner("simplecil", "seq-tiny", {"seed": 0})
    model.net.head.add(torch.rand(2, 64), torch.tensor([0, 3]))
    scores = model.net.head(torch.rand(5, 64))
    assert (scores[:, [0, 3]] > 0).all()
    assert (scores[:, [1, 2, 4, 5]] == 0).all()
