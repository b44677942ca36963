"""Function Distance Regularization."""

import torch

from mammoth_compiled.models.common.features import outputs
from mammoth_compiled.models.fdr import function_distance
from mammoth_compiled.types import Batch


def test_distance_is_the_mean_norm_of_the_difference_of_probabilities():
    # Probabilities (1/2, 1/2) and (3/4, 1/4): the difference (1/4, -1/4) has norm sqrt(1/8).
    even, odd = torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log()
    distance = function_distance(torch.cat((even, even)), torch.cat((odd, even)))
    torch.testing.assert_close(distance, torch.tensor(0.5 * 0.125**0.5), rtol=0, atol=1e-4)


def test_gradient_is_finite_where_nothing_has_changed():
    logits = torch.randn(4, 3, requires_grad=True)
    function_distance(logits, logits.detach()).backward()
    assert torch.equal(logits.grad, torch.zeros(4, 3))


def test_loss_adds_the_distance_to_the_stored_function(run_tiny):
    model, dataset, _ = run_tiny("fdr", buffer_size=8, alpha=2.0)
    batch = Batch(*next(iter(dataset.train_loader)))
    model.net.eval()
    with torch.no_grad():
        images, _, stored = model.buffer.get_all_data(model.transform)
        expected = model.loss(model.net(batch.inputs), batch.labels)
        expected += 2.0 * function_distance(model.net(images), stored)
        torch.testing.assert_close(model.training_loss(batch), expected)


def test_stored_logits_are_those_at_the_end_of_the_task(run_tiny):
    model, _, _ = run_tiny("fdr", buffer_size=8, alpha=1.0)
    is_last = model.buffer.labels >= 4
    assert is_last.any()
    torch.testing.assert_close(
        outputs(model, model.buffer.examples)[is_last], model.buffer.logits[is_last]
    )
