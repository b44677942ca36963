"""User code in the wild: backbones and models as people write them, for `test_wild_code.py`.

Each snippet is a `Wild`: a backbone, or a model, that does one thing that compilation could get
wrong. `reasons` are parts of messages, one of which says why the run falls back to eager mode; it
is empty if the code runs compiled.
"""

import contextlib
import copy
import os
import random
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.utils.checkpoint import checkpoint

from mammoth_compiled import ContinualModel, MammothBackbone
from mammoth_compiled.types import ReturnTypes


@dataclass(frozen=True)
class Wild:
    """A backbone or a model with one peculiarity.

    Attributes:
        cls: A `MammothBackbone` or a `ContinualModel`.
        reasons: Parts of messages, one of which the fallback to eager mode gives; none if there is
            no fallback.
        args: Further arguments of the run.
    """

    cls: type
    reasons: tuple[str, ...] = ()
    args: dict[str, Any] = field(default_factory=dict)


SNIPPETS: dict[str, Wild] = {}


def wild(*reasons, **args):
    """Adds a class to the snippets, under its name."""

    def add(cls):
        SNIPPETS[cls.__name__] = Wild(cls, reasons, args)
        return cls

    return add


# --- backbones ---------------------------------------------------------------------------------


class Base(MammothBackbone):
    """Two layers and a head; subclasses change `body`."""

    def __init__(self, num_classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.hidden = nn.Linear(width * 16, 16)
        self.classifier = nn.Linear(16, num_classes)

    def body(self, x):
        return torch.tanh(self.hidden(self.stem(x)))

    def stem(self, x):
        return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)

    def forward(self, x, returnt=ReturnTypes.OUT):
        features = self.body(x)
        if returnt == "features":
            return features
        logits = self.classifier(features)
        return logits if returnt == "out" else (logits, features)


@wild()
class Plain(Base):
    pass


@wild("random")
class RandomShuffle(Base):
    def body(self, x):
        order = list(range(16))
        if self.training:
            random.shuffle(order)
        return super().body(x)[:, order]


@wild("random")
class RandomFloat(Base):
    def body(self, x):
        return super().body(x) * (1 + random.random() if self.training else 1)


@wild("numpy.random")
class NumpyGlobalRandom(Base):
    def body(self, x):
        return super().body(x) * (1 + np.random.rand() if self.training else 1)


@wild("rng")
class NumpyGenerator(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.rng = np.random.default_rng(0)

    def body(self, x):
        return super().body(x) * (1 + float(self.rng.random()) if self.training else 1)


@wild("rng")
class PythonGenerator(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.rng = random.Random(0)

    def body(self, x):
        return super().body(x) * (1 + self.rng.random() if self.training else 1)


_GENERATOR = random.Random(1)


@wild("_GENERATOR")
class GlobalGenerator(Base):
    def body(self, x):
        return super().body(x) * (1 + _GENERATOR.random() if self.training else 1)


@wild("this guard failed")
class Clock(Base):
    def body(self, x):
        scale = 1 + 0 * (time.time() % 1)
        return super().body(x) * scale


@wild("step")
class Counter(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.step = 0

    def body(self, x):
        if self.training:
            self.step += 1
        return super().body(x) * (1 + 0.01 * self.step)


@wild("_calls")
class GlobalCounter(Base):
    def body(self, x):
        global _calls
        if self.training:
            _calls += 1
        return super().body(x) * (1 + 0.001 * _calls)


_calls = 0


@wild("history")
class ListOfCalls(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.history = []

    def body(self, x):
        if self.training:
            self.history.append(len(x))
        return super().body(x) * (1 + 0.01 * (len(self.history) % 3))


@wild("total")
class ClassCounter(Base):
    total = 0

    def __init__(self, num_classes):
        super().__init__(num_classes)
        type(self).total = 0

    def body(self, x):
        if self.training:
            type(self).total += 1
        return super().body(x) * (1 + 0.01 * self.total)


@wild()
class ShuffleWithASeed(Base):
    def body(self, x):
        order = list(range(16))
        random.Random(4).shuffle(order)
        return super().body(x)[:, order]


@wild()
class BufferReplaced(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("mean", torch.zeros(16))

    def body(self, x):
        y = super().body(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return y - self.mean


@wild()
class LazyAttributes(Base):
    size = None

    def body(self, x):
        if self.size is None:
            self.size = x.shape[-1]
        self.height, self.width = x.shape[2:]
        return super().body(x) * (self.height / self.size)


@wild()
class TensorCounter(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("step", torch.zeros(()))

    def body(self, x):
        if self.training:
            self.step += 1
        return super().body(x) * (1 + 0.01 * self.step)


@wild()
class KeepsActivations(Base):
    def body(self, x):
        self.activations = super().body(x)
        return self.activations


@wild()
class DataDependentBranch(Base):
    def body(self, x):
        y = super().body(x)
        if y.mean() > 0:
            return y * 2
        return y


@wild("this guard failed")
class ItemInForward(Base):
    def body(self, x):
        y = super().body(x)
        return y / max(y.abs().max().item(), 0.1)


@wild()
class NumpyInForward(Base):
    def body(self, x):
        weights = torch.from_numpy(np.linspace(0.5, 1.5, 16, dtype=np.float32))
        return super().body(x) * weights


@wild()
class TorchRandom(Base):
    def body(self, x):
        y = super().body(x)
        return y + 0.01 * torch.randn_like(y) if self.training else y


@wild()
class StochasticDepth(Base):
    def body(self, x):
        y = super().body(x)
        if self.training:
            y = y * torch.bernoulli(torch.full((len(y), 1), 0.5))
        return y


@wild()
class ReadsTheEnvironment(Base):
    def body(self, x):
        return super().body(x) * float(os.environ.get("WILD_SCALE", "1"))


@wild()
class SpectralNorm(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.hidden = nn.utils.parametrizations.spectral_norm(self.hidden)


@wild()
class WeightNorm(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.hidden = nn.utils.parametrizations.weight_norm(self.hidden)


@wild()
class Checkpointed(Base):
    def body(self, x):
        # Without the batch norm: recomputing it, eager mode updates its statistics twice.
        return checkpoint(lambda y: torch.tanh(self.hidden(y)), self.stem(x), use_reentrant=False)


@wild()
class FrozenStem(Base):
    def body(self, x):
        with torch.no_grad():
            hidden = self.stem(x)
        return torch.tanh(self.hidden(hidden))


@wild()
class TryExcept(Base):
    def body(self, x):
        try:
            y = super().body(x)
            if y.shape[0] < 0:
                raise ValueError("never")
        except ValueError:
            y = x.flatten(1)[:, :16]
        return y


@wild()
class HookFromTheStart(Base):
    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.hidden.register_forward_hook(lambda module, args, output: output * 0.5)


# --- models ------------------------------------------------------------------------------------


class Step(ContinualModel):
    """A step in Mammoth's style; subclasses change `step_loss`."""

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        loss = self.step_loss(inputs, labels)
        loss.backward()
        self.opt.step()
        return loss.item()

    def step_loss(self, inputs, labels):
        return self.loss(self.net(inputs), labels)


@wild("this guard failed")
class AttributeChangesEveryStep(Step):
    count = 0

    def begin_task(self, dataset):
        def scale(module, args, output):
            return output * (1 + 0.001 * module.times)

        if dataset.c_task == 0:
            self.net.hidden.times = 0
            self.net.hidden.register_forward_hook(scale)

    def step_loss(self, inputs, labels):
        self.net.hidden.times += 1
        return super().step_loss(inputs, labels)


@wild()
class AttributeChangesEveryTask(Step):
    def begin_task(self, dataset):
        self.net.hidden.times = dataset.c_task
        if dataset.c_task == 0:
            self.net.hidden.register_forward_hook(lambda m, a, output: output * (1 + m.times))


@wild()
class HookInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden.register_forward_hook(lambda module, args, output: output * 0.5)


@wild()
class PreHookInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden.register_forward_pre_hook(lambda module, args: (args[0] * 0.5,))


@wild()
class BackwardHookInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden.register_full_backward_hook(lambda m, grads, _: (grads[0] * 0.5,))


@wild()
class HookRemovedInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 0:
            self.handle = self.net.hidden.register_forward_hook(lambda m, a, output: output * 0.5)
        elif dataset.c_task == 1:
            self.handle.remove()


@wild()
class HookOnTheNet(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.register_forward_hook(lambda module, args, output: output * 0.5)


@wild("this guard failed")
class HookThatCollects(Step):
    def begin_task(self, dataset):
        self.seen = getattr(self, "seen", 0)

        def collect(module, args, output):
            self.seen += 1

        if dataset.c_task == 0:
            self.net.hidden.register_forward_hook(collect)

    def end_task(self, dataset):
        assert self.seen > 0


class _ChangesInSecondTask(Step):
    """Changes the outputs of a layer from the second task on."""

    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden.register_forward_hook(self.change)


# With PyTorch 2.11, Dynamo does not trace `shuffle`.
@wild("draws random numbers with Python", "it was recompiled")
class ShuffleInSecondTask(_ChangesInSecondTask):
    def change(self, module, args, output):
        order = list(range(16))
        random.shuffle(order)
        return output[:, order] if module.training else output


class _Scaled(Base):
    def body(self, x):
        y = super().body(x)
        return y * self.rng.random() if self.training else y


@wild("draws random numbers with Python")
class OwnGeneratorInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.__class__ = _Scaled
            self.net.rng = random.Random(3)


@wild()
class NumpyRandomInSecondTask(_ChangesInSecondTask):
    def change(self, module, args, output):
        noise = np.random.normal(size=16).astype(np.float32)
        return output + torch.from_numpy(noise) if module.training else output


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -0.1 * grad


@wild()
class OwnFunctionInSecondTask(_ChangesInSecondTask):
    def change(self, module, args, output):
        return _Reversed.apply(output)


@wild()
class BackwardPreHookInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden.register_full_backward_pre_hook(lambda m, grads: (grads[0] * 0.25,))


class _Halved(nn.Module):
    def forward(self, weight):
        return weight * 0.5


@wild()
class ParametrizedInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            parametrize.register_parametrization(self.net.hidden, "weight", _Halved())
            self.opt = self.get_optimizer()


@wild()
class ParameterHook(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden.weight.register_hook(lambda grad: grad * 0.1)


@wild()
class Pruning(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            prune.l1_unstructured(self.net.hidden, "weight", amount=0.5)


@wild()
class WeightReplaced(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden.weight = nn.Parameter(self.net.hidden.weight.detach() * 0.5)
            self.opt = self.get_optimizer()


@wild()
class DataReplaced(Step):
    def begin_task(self, dataset):
        for parameter in self.net.parameters():
            parameter.data = parameter.data.clone() * 0.9


@wild()
class InPlaceUnderNoGrad(Step):
    def begin_epoch(self, epoch, dataset):
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter.mul_(0.95)


@wild()
class LayerReplaced(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.hidden = nn.Sequential(self.net.hidden, nn.ReLU())
            self.opt = self.get_optimizer()


@wild()
class HeadGrows(Step):
    def begin_task(self, dataset):
        old = self.net.classifier
        self.net.classifier = nn.Linear(16, 6 + dataset.c_task)
        with torch.no_grad():
            self.net.classifier.weight[: old.out_features].copy_(old.weight)
        self.opt = self.get_optimizer()


@wild()
class StemFrozenInSecondTask(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.conv.requires_grad_(False)
            self.net.norm.requires_grad_(False)


@wild()
class BatchNormInEvalMode(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 1:
            self.net.norm.eval()


@wild()
class MomentumTeacher(Step):
    def begin_task(self, dataset):
        if dataset.c_task == 0:
            self.teacher = copy.deepcopy(self.net)

    def step_loss(self, inputs, labels):
        with torch.no_grad():
            for mean, new in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                mean.mul_(0.9).add_(new, alpha=0.1)
            target = self.teacher(inputs)
        logits = self.net(inputs)
        return self.loss(logits, labels) + F.mse_loss(logits, target)


@wild()
class CopiedTeacher(Step):
    teacher = None

    def begin_task(self, dataset):
        if dataset.c_task > 0:
            self.teacher = copy.deepcopy(self.net).eval()

    def step_loss(self, inputs, labels):
        logits, features = self.net(inputs, returnt="both")
        loss = self.loss(logits, labels)
        if self.teacher is not None:
            with torch.no_grad():
                target = self.teacher.features(inputs)
            loss = loss + F.mse_loss(features, target)
        return loss


@wild()
class TwoViews(Step):
    def step_loss(self, inputs, labels):
        with torch.no_grad():
            target = self.net(inputs.flip(-1))
        logits = self.net(inputs)
        return self.loss(logits, labels) + F.mse_loss(logits, target)


@wild()
class GradientAccumulation(Step):
    count = 0

    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        loss = self.step_loss(inputs, labels) / 2
        loss.backward()
        self.count += 1
        if self.count % 2 == 0:
            self.opt.step()
            self.opt.zero_grad()
        return loss.item()


@wild()
class MicroBatches(Step):
    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        total = 0.0
        for part, target in zip(inputs.split(3), labels.split(3), strict=True):
            loss = self.loss(self.net(part), target) / 3
            loss.backward()
            total += loss.item()
        self.opt.step()
        return total


@wild()
class MaskedRows(Step):
    def step_loss(self, inputs, labels):
        loss = self.loss(self.net(inputs), labels)
        chosen = inputs[labels % 2 == 0]
        if len(chosen) > 1:
            loss = loss + 0.1 * self.net(chosen).square().mean()
        return loss


@wild()
class SharpnessAware(Step):
    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        self.step_loss(inputs, labels).backward()
        with torch.no_grad():
            shifts = [0.05 * p.grad / (p.grad.norm() + 1e-3) for p in self.net.parameters()]
            for parameter, shift in zip(self.net.parameters(), shifts, strict=True):
                parameter.add_(shift)
        self.opt.zero_grad()
        loss = self.step_loss(inputs, labels)
        loss.backward()
        with torch.no_grad():
            for parameter, shift in zip(self.net.parameters(), shifts, strict=True):
                parameter.sub_(shift)
        self.opt.step()
        return loss.item()


@wild("double backward")
class GradientPenalty(Step):
    def step_loss(self, inputs, labels):
        inputs = inputs.clone().requires_grad_()
        loss = self.loss(self.net(inputs), labels)
        (grad,) = torch.autograd.grad(loss, inputs, create_graph=True)
        return loss + 0.1 * grad.square().sum()


@wild("double backward")
class PenaltyOfALinearLoss(Step):
    def step_loss(self, inputs, labels):
        inputs = inputs.clone().requires_grad_()
        logits = self.net(inputs)
        (grad,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
        return self.loss(logits, labels) + 0.1 * grad.square().sum()


@wild()
class AdversarialInputs(Step):
    def step_loss(self, inputs, labels):
        inputs = inputs.clone().requires_grad_()
        (grad,) = torch.autograd.grad(self.loss(self.net(inputs), labels), inputs)
        return self.loss(self.net((inputs + 0.01 * grad.sign()).detach()), labels)


@wild()
class RetainGraph(Step):
    def observe(self, inputs, labels, not_aug_inputs, epoch=None):
        self.opt.zero_grad()
        logits = self.net(inputs)
        self.loss(logits, labels).backward(retain_graph=True)
        (0.1 * logits.square().mean()).backward()
        self.opt.step()
        return 0.0


@wild()
class SecondOptimizer(Step):
    def begin_task(self, dataset):
        self.head_opt = torch.optim.Adam(self.net.classifier.parameters(), lr=1e-3)

    def observe(self, *args, epoch=None):
        loss = super().observe(*args, epoch=epoch)
        self.head_opt.step()
        return loss


@wild()
class PartOfTheNet(Step):
    def step_loss(self, inputs, labels):
        hidden = self.net.stem(inputs)
        return self.loss(self.net.classifier(torch.tanh(self.net.hidden(hidden))), labels)


@wild()
class ForwardAndCall(Step):
    def step_loss(self, inputs, labels):
        return self.loss(self.net.forward(inputs), labels) + self.loss(self.net(inputs), labels)


@wild()
class NestedCompile(Step):
    def begin_task(self, dataset):
        self.compiled_loss = torch.compile(self.loss, backend="eager")

    def step_loss(self, inputs, labels):
        return self.compiled_loss(self.net(inputs), labels)


class _Wrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@wild()
class WrappedNet(Step):
    def begin_task(self, dataset):
        self.wrapped = _Wrapper(self.net)

    def step_loss(self, inputs, labels):
        return self.loss(self.wrapped(inputs), labels)


@wild()
class SwitchesMode(Step):
    def step_loss(self, inputs, labels):
        self.net.eval()
        with torch.no_grad():
            confidence = self.net(inputs).softmax(1).amax(1)
        self.net.train()
        return (F.cross_entropy(self.net(inputs), labels, reduction="none") * confidence).mean()


@wild()
class UserAutocast(Step):
    def step_loss(self, inputs, labels):
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.net(inputs)
        return self.loss(logits.float(), labels)


@wild()
class ErrorsInObserve(Step):
    def observe(self, *args, epoch=None):
        with contextlib.suppress(RuntimeError):
            self.net(torch.rand(8, 5, 8, 8))  # wrong number of channels
        return super().observe(*args, epoch=epoch)


@wild()
class FunctionalCall(Step):
    def step_loss(self, inputs, labels):
        weights = {name: p * 0.9 for name, p in self.net.named_parameters()}
        logits = torch.func.functional_call(self.net, weights, (inputs,))
        return self.loss(logits, labels)


@wild()
class AccumulatedFisher(Step):
    def end_task(self, dataset):
        self.fisher = [torch.zeros_like(p) for p in self.net.parameters()]
        for inputs, labels, _ in dataset.train_loader:
            self.opt.zero_grad()
            self.loss(self.net(inputs), labels).backward()
            for total, parameter in zip(self.fisher, self.net.parameters(), strict=True):
                total += parameter.grad.square()
        self.anchor = [p.detach().clone() for p in self.net.parameters()]

    def step_loss(self, inputs, labels):
        loss = super().step_loss(inputs, labels)
        for parameter, weight, anchor in zip(
            self.net.parameters(),
            getattr(self, "fisher", ()),
            getattr(self, "anchor", ()),
            strict=False,
        ):
            loss = loss + (weight * (parameter - anchor).square()).sum()
        return loss
