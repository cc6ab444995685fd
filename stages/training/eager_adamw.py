"""AdamW without torch's compiler."""

from collections.abc import Callable
from inspect import unwrap
from typing import Any

import torch


class EagerAdamW(torch.optim.AdamW):
    """torch's AdamW, for training loops that are not compiled.

    torch wraps these methods, so that its compiler leaves them out. The wrappers import the compiler to tell it so,
    which takes a second; these are the methods without wrappers.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters, as in torch."""
        with torch.no_grad():
            return _step(self, closure)


_step = unwrap(torch.optim.AdamW.step)
