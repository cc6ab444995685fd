import torch
from torch import nn

from stages.training.eager_adamw import EagerAdamW


def test_eager_adamw__steps_and_states_of_torch() -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    optimizers = [
        kind(
            [{"params": [network.weight], "lr": 0.1}, {"params": [network.bias], "lr": 0.2}],
            weight_decay=0.3,
            fused=True,
        )
        for kind, network in ((EagerAdamW, ours), (torch.optim.AdamW, theirs))
    ]
    for step in range(4):
        for optimizer, network in zip(optimizers, (ours, theirs), strict=True):
            network(torch.full((5, 3), step + 1.0)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            assert network.weight.grad is None
        if step == 1:  # a checkpoint of either is one of the other
            first, second = (optimizer.state_dict() for optimizer in optimizers)
            optimizers[0].load_state_dict(second)
            optimizers[1].load_state_dict(first)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
