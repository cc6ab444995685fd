import pytest
import torch

from stages.relabel.heads import TwoHeads, decided, noise_robust_loss, probabilities_map


def heads(classes: int = 3) -> TwoHeads:
    torch.manual_seed(0)
    return TwoHeads(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), classes)


def test_TwoHeads__probabilities_of_the_known_classes_only() -> None:
    features = torch.randn(5, 2)
    allowed = torch.tensor([[True, False, True]])
    found = heads()(features, allowed)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(5))
    assert (found[:, 2] == 0).all()
    free = heads()(features)
    torch.testing.assert_close(found[:, 0], free[:, 0])  # the classes do not change what is background
    torch.testing.assert_close(found[:, 1] / found[:, 3], free[:, 1] / free[:, 3])


def test_TwoHeads__without_known_classes_all_is_background() -> None:
    found = heads()(torch.randn(4, 2), torch.zeros(1, 3, dtype=torch.bool))
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0, 0]]).expand(4, -1))


def test_probabilities_map__standardises() -> None:
    network = heads()
    features = torch.randn(2, 3, 4)
    found = probabilities_map(network, features)
    assert found.shape == (4, 3, 4)
    one = network((features[:, 1, 2] - torch.tensor([1.0, 2.0]))[None] / torch.tensor([2.0, 4.0]))[0]
    torch.testing.assert_close(found[:, 1, 2], one)


def test_noise_robust_loss__by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    target = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    p = logits.softmax(dim=1)
    expected = (target * (1 - p**0.7) / 0.7).sum(dim=1)
    torch.testing.assert_close(noise_robust_loss(logits, target, "gce"), expected)
    torch.testing.assert_close(noise_robust_loss(logits, target, "ce"), -(target * p.log()).sum(dim=1))


def test_noise_robust_loss__wrong_labels_weigh_less() -> None:
    """The gradient of a label that the network finds unlikely is smaller than with cross-entropy."""
    for loss, smaller in (("gce", True), ("ce", False)):
        logits = torch.tensor([[4.0, 0.0]], requires_grad=True)
        noise_robust_loss(logits, torch.tensor([[0.0, 1.0]]), loss).sum().backward()  # type: ignore[arg-type,no-untyped-call]
        assert (float(logits.grad.abs().max()) < 0.1) == smaller  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("probabilities", "label"), [((0.4, 0.3, 0.3), 1), ((0.4, 0.29, 0.31), 2), ((0.6, 0.4, 0.0), 0)]
)
def test_decided__first_object_or_background(probabilities: tuple[float, ...], label: int) -> None:
    assert int(decided(torch.tensor(probabilities)[:, None])[0]) == label
