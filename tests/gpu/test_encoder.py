"""An encoder on a GPU finds what it finds on a CPU. Needs only torch, transformers and numpy."""

import pytest
import torch

from benchmarks.gpu_encoders import ENCODERS, passages, random_encoder
from uniner.encoder.model import encoder_logits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


@pytest.mark.parametrize("name", list(ENCODERS))
def test_scores_are_those_of_a_cpu(name):
    collator, pieces, _ = passages(8)
    torch.manual_seed(0)
    net = random_encoder(name, True, torch.device("cpu")).eval()
    batch, device = collator.batch(pieces), torch.device("cuda")
    with torch.inference_mode():
        exact = encoder_logits(net, batch, torch.device("cpu")).sigmoid()
        on_gpu = encoder_logits(net.to(device), batch, device).sigmoid().cpu()
        half = encoder_logits(net.to(torch.bfloat16), batch, device).float().sigmoid().cpu()
    torch.testing.assert_close(on_gpu, exact, atol=1e-3, rtol=0)
    torch.testing.assert_close(half, exact, atol=3e-2, rtol=0)
