"""Attention and decoders against plain implementations of their papers' formulas."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from captioner.model.attention import AdditiveAttention
from tests.model.decoders import (
    CAPTIONS,
    TINY,
    by_place,
    first_state,
    make_decoder,
    make_features,
    places_of,
)


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


@torch.inference_mode()
def test_attention_is_the_papers_formula_computed_region_by_region() -> None:
    torch.manual_seed(0)
    attention = AdditiveAttention(value_size=3, query_size=4, size=5).double()
    values, query = torch.randn(2, 6, 3).double(), torch.randn(2, 3, 4).double()
    context, weights = attention(query, attention.key(values), values)  # (B, K, C), (B, K, L)
    key, bias = attention.key.weight.tolist(), attention.key.bias.tolist()
    weight, score = attention.query.weight.tolist(), attention.score.weight[0].tolist()
    for b in range(2):
        for k in range(3):
            energies = []  # e_i = v . tanh(W a_i + U h)
            for region in values[b].tolist():
                keys = [dot(row, region) + offset for row, offset in zip(key, bias, strict=True)]
                queries = [dot(row, query[b, k].tolist()) for row in weight]
                energies.append(
                    dot(score, [math.tanh(x + y) for x, y in zip(keys, queries, strict=True)])
                )
            alphas = [math.exp(energy) / math.fsum(map(math.exp, energies)) for energy in energies]
            assert weights[b, k].tolist() == pytest.approx(alphas, abs=1e-12)
            expected = [dot(alphas, values[b, :, c].tolist()) for c in range(3)]
            assert context[b, k].tolist() == pytest.approx(expected, abs=1e-12)


@torch.inference_mode()
def test_show_attend_tell_is_the_papers_formulas() -> None:
    decoder = make_decoder("show_attend_tell").double()
    features, word = make_features()[:1].double(), torch.tensor([[9]])
    image, state = decoder.prepare(features)
    logits, after, attention = decoder.step(image, first_state(state), word)

    weights = {
        name: tensor for name, tensor in decoder.named_parameters() if not name.startswith("lstm")
    }
    projected = features[0] @ weights["project.weight"].T + weights["project.bias"]
    deviation = (projected - projected.mean(1, keepdim=True)) / projected.var(
        1, unbiased=False, keepdim=True
    ).add(1e-5).sqrt()
    values = deviation * weights["norm.weight"] + weights["norm.bias"]  # (L, C)
    first = torch.tanh(
        values.mean(0) @ weights["first_state.weight"].T + weights["first_state.bias"]
    )
    h, c = first[: TINY.hidden_size], first[TINY.hidden_size :]
    compared = values @ weights["attention.key.weight"].T + weights["attention.key.bias"]
    compared = torch.tanh(compared + weights["attention.query.weight"] @ h)
    alphas = torch.softmax(compared @ weights["attention.score.weight"][0], 0)
    context = torch.sigmoid(weights["gate.weight"] @ h + weights["gate.bias"]) * (alphas @ values)
    embedded = weights["embedding.weight"][9]
    lstm = decoder.lstm
    gates = (
        lstm.weight_ih @ torch.cat([embedded, context])
        + lstm.bias_ih
        + lstm.weight_hh @ h
        + lstm.bias_hh
    )
    i, f, g, o = gates.chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    out = embedded + weights["readout.weight"] @ torch.cat([h, context]) + weights["readout.bias"]

    torch.testing.assert_close(attention[0, 0], alphas)
    torch.testing.assert_close(after["hidden"][0, 0], h)
    torch.testing.assert_close(after["cell"][0, 0], c)
    torch.testing.assert_close(
        logits[0, 0], weights["embedding.weight"] @ out + weights["output.bias"]
    )


@torch.inference_mode()
@pytest.mark.parametrize("tie_embedding", [True, False])
def test_up_down_is_the_papers_formulas(tie_embedding: bool) -> None:
    """Each caption, word and region on its own, with separate LSTM cells (Anderson et al. 2018)."""
    decoder = make_decoder("up_down", tie_embedding=tie_embedding).double()
    weights = {name: tensor.clone() for name, tensor in decoder.named_parameters()}
    if tie_embedding:
        weights["output.weight"] = weights["embedding.weight"]
    hidden, context = TINY.hidden_size, TINY.context_size
    attention_lstm = nn.LSTMCell(hidden + context + TINY.embedding_size, hidden).double()
    language_lstm = nn.LSTMCell(context + hidden, hidden).double()
    for name, lstm in (("attention_lstm", attention_lstm), ("language_lstm", language_lstm)):
        lstm.load_state_dict({key: weights[f"{name}.{key}"] for key in lstm.state_dict()})

    def caption_alone(regions: Tensor, caption: list[int]) -> list[tuple[Tensor, Tensor]]:
        """For each word after START, the log-odds (V,) and the attention (L,)."""
        projected = [
            weights["project.weight"] @ region + weights["project.bias"] for region in regions
        ]
        v = [
            nn.functional.layer_norm(p, (context,), weights["norm.weight"], weights["norm.bias"])
            for p in projected
        ]
        v_mean = sum(v) / len(v)
        h1 = c1 = h2 = c2 = torch.zeros(1, hidden).double()
        steps = []
        for word in caption[:-1]:
            x1 = torch.cat([h2[0], v_mean, weights["embedding.weight"][word]])  # eq. 2
            h1, c1 = attention_lstm(x1.unsqueeze(0), (h1, c1))
            a = []
            for v_i in v:  # eq. 3
                key = weights["attention.key.weight"] @ v_i + weights["attention.key.bias"]
                a.append(
                    weights["attention.score.weight"][0]
                    @ (key + weights["attention.query.weight"] @ h1[0]).tanh()
                )
            alpha = torch.stack(a).softmax(0)  # eq. 4
            attended = sum(weight * v_i for weight, v_i in zip(alpha, v, strict=True))  # eq. 5
            h2, c2 = language_lstm(torch.cat([attended, h1[0]]).unsqueeze(0), (h2, c2))  # eq. 6
            spoken = weights["readout.weight"] @ h2[0] + weights["readout.bias"]
            steps.append(
                (weights["output.weight"] @ spoken + weights["output.bias"], alpha)
            )  # eq. 7
        return steps

    features = make_features().double()
    output = decoder(features, CAPTIONS)
    logits = by_place(output, CAPTIONS)
    coverage = torch.zeros_like(output.coverage)
    lengths = {(b, k): t + 2 for t, b, k in places_of(CAPTIONS)}
    for (b, k), length in lengths.items():
        for t, (expected, alpha) in enumerate(
            caption_alone(features[b], CAPTIONS[b, k, :length].tolist())
        ):
            torch.testing.assert_close(logits.pop((t, b, k)), expected, atol=1e-12, rtol=1e-12)
            coverage[b, k] += alpha
    assert not logits
    torch.testing.assert_close(output.coverage, coverage, atol=1e-12, rtol=1e-12)
