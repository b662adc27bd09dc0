"""What may be seen of a module from outside, for tests that it is left as it was."""

import random

import numpy as np
import torch
from torch import Tensor


def state_of(module):
    """Everything that may be seen of a module from outside, as plain values."""
    found = []
    for part in module.modules():
        hooks = {name: list(value) for name, value in vars(part).items() if "_hooks" in name and value}
        tensors = {name: id(value) for name, value in vars(part).items() if isinstance(value, Tensor)}
        found.append((type(part), part.training, hooks, tensors, part._is_full_backward_hook))
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            values = torch.view_as_real(tensor.detach()) if tensor.is_complex() else tensor.detach()
            grad = None if tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
            found.append((name, id(tensor), tensor.device, tensor.dtype, tensor.requires_grad, grad))
            found.append((tensor.stride(), values.float().tolist()))
    return found


def random_states():
    return [random.getstate(), torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]
