"""The gaze loss reads the very attention that the decoder computes."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.gaze import LAYER, Gaze


def tiny_decoder() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=LAYER + 1,
        num_attention_heads=2,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config)


def test_the_loss_is_the_cross_entropy_of_the_eager_attention() -> None:
    model = tiny_decoder()
    gaze = Gaze(model)
    states = torch.randn(2, 9, 32)
    out = model.model(inputs_embeds=states, output_attentions=True, use_cache=False)
    attention = out.attentions[LAYER][:, :, 8, 1:5].mean(1)
    share = attention / attention.sum(1, keepdim=True)
    wanted = torch.tensor([[0.0, 1, 1, 0], [0, 0, 0, 0]])
    expected = -(share[0, 1].log() + share[0, 2].log()) / 2
    mask = torch.ones(9, 9).tril().bool().expand(2, 1, 9, 9)
    loss = gaze.loss(torch.tensor([0, 1]), torch.tensor([8, 8]), mask, torch.arange(1, 5), wanted)
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)


def test_a_question_about_no_sign_teaches_nothing() -> None:
    model = tiny_decoder()
    gaze = Gaze(model)
    model.model(inputs_embeds=torch.randn(1, 6, 32), use_cache=False)
    mask = torch.ones(6, 6).tril().bool().expand(1, 1, 6, 6)
    loss = gaze.loss(torch.tensor([0]), torch.tensor([5]), mask, torch.arange(1, 4), torch.zeros(1, 3))
    assert float(loss) == 0.0
