"""Accuracy on the test images of all tasks seen so far."""

import torch

from mammoth_compiled.datasets.base import ContinualDataset
from mammoth_compiled.models.base import ContinualModel
from mammoth_compiled.types import Evaluation


@torch.no_grad()
def evaluate(model: ContinualModel, dataset: ContinualDataset) -> Evaluation:
    """Evaluates a model on the test set of every task seen so far.

    A prediction is the argmax of the scores `model(inputs)`, [B, K], over all classes seen so far
    (class-IL), or over the task's own classes (task-IL). Causes one host sync per task.

    Args:
        model: The model; its backbone is in eval mode meanwhile.
        dataset: The dataset, after at least one `meta_get_data_loaders()`.

    Returns:
        Accuracies in [0, 1], one per task seen, and the mean test loss.
    """
    was_training = model.net.training
    model.net.eval()
    result = Evaluation()
    total_loss, total_images = 0.0, 0
    classes_seen = dataset.get_offsets()[1]
    loss_function = dataset.get_loss()
    try:
        for task, loader in enumerate(dataset.test_loaders):
            first, end = dataset.get_offsets(task)
            sums = torch.zeros(3, dtype=torch.float64, device=model.device)
            images = 0
            for inputs, labels, *_ in loader:
                inputs, labels = inputs.to(model.device), labels.to(model.device)
                scores = model(inputs)
                predicted_seen = scores[:, :classes_seen].argmax(1)
                predicted_own = scores[:, first:end].argmax(1) + first
                sums[0] += (predicted_seen == labels).sum()
                sums[1] += (predicted_own == labels).sum()
                sums[2] += loss_function(scores, labels) * len(labels)
                images += len(labels)
            correct_seen, correct_own, loss = sums.tolist()
            result.class_il.append(correct_seen / images)
            result.task_il.append(correct_own / images)
            total_loss += loss
            total_images += images
    finally:
        model.net.train(was_training)
    result.loss = total_loss / max(total_images, 1)
    return result
