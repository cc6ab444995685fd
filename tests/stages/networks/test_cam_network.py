import torch
import torch.nn.functional as F
from torch import Tensor

from stages.networks.cam_network import CamNetwork
from stages.networks.inference import decoder_probabilities, patch_tokens, predicted_classes, square_cams
from stages.toco.cam import Cams, present_classes
from stages.toco.model import Outputs


class MeanColour:
    """Another method's network: the CAM of class i is the mean of colour channel i over a token of 2 x 2 pixels."""

    num_classes = 2

    def __init__(self) -> None:
        self.backbone = self
        self.patch_size = 2

    def normalise(self, images: Tensor) -> Tensor:
        return images / 255

    def __call__(self, images: Tensor, *, decode: bool = True) -> Outputs:
        tokens = F.avg_pool2d(images, self.patch_size)
        cam = tokens[:, :2]
        logits = cam.amax(dim=(-2, -1)) - 0.5
        return Outputs(logits, logits, Cams(cam, cam), tokens if decode else None, tokens, tokens.mean(dim=(-2, -1)))

    def raw_cams(self, images: Tensor) -> Cams:
        return self(images, decode=False).cams


def test_cam_network__the_stages_run_another_methods_network() -> None:
    network = MeanColour()
    assert isinstance(network, CamNetwork)
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    image[:, 0, :, :2] = 255  # class 1 on the left half; class 2 is absent
    assert predicted_classes(network, image) == [(1,)]
    cams = square_cams(network, image, present_classes(torch.tensor([[1.0, 0.0]])), (1.0,))
    # Token CAM (1, 0), the same for its flip; bilinear from 2 to 4 columns gives 1, 0.75, 0.25, 0.
    expected = torch.tensor([1.0, 0.75, 0.25, 0.0]) / 1.00001
    torch.testing.assert_close(cams.final, expected.expand(1, 1, 4, 4))
    assert patch_tokens(network, image)[0, 0].tolist() == [[1, 0], [1, 0]]
    probabilities = decoder_probabilities(network, image, (1.0,))
    torch.testing.assert_close(probabilities[0, :, 0, 0], torch.tensor([2.0, 0.0, 0.0]).softmax(dim=0))
