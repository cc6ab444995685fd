import pytest
import torch

from stages.reporting.oversmoothing import mean_absolute_cosine


def test_mean_absolute_cosine__by_hand() -> None:
    # Tokens (1, 0), (0, 2), (-3, 0): the pairs have |cosine| 0, 1 and 0.
    tokens = torch.tensor([[1.0, 0.0, -3.0], [0.0, 2.0, 0.0]]).view(1, 2, 1, 3)
    torch.testing.assert_close(mean_absolute_cosine(tokens), torch.tensor([1 / 3]))


def test_mean_absolute_cosine__tokens_of_one_direction() -> None:
    alike = torch.arange(1.0, 5.0).view(1, 4, 1, 1).expand(2, 4, 3, 3)
    torch.testing.assert_close(mean_absolute_cosine(alike), torch.ones(2))


def test_mean_absolute_cosine__one_token_is_an_error() -> None:
    with pytest.raises(ValueError, match="there is only one token"):
        mean_absolute_cosine(torch.ones(1, 4, 1, 1))
