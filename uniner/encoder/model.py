"""The encoder's network: GLiNER's, with its parameter names, computed in an order that costs less.

A span's vector is never made: the output's first layer is computed once for each word as a start and once as
an end, and its second is multiplied with the types' vectors beforehand. The scores are the same up to
rounding. With 10 types and a width of 384 a span costs 40 times less than by the definition.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from uniner.encoder.batches import EncoderBatch

TOKEN_LEVEL = "token_level"
_PRIOR, _SMALL = -4.0, 0.3


@dataclass(frozen=True, kw_only=True)
class EncoderShape:
    """What the network's layers depend on, besides the text encoder.

    hidden: width of word and type vectors. max_width: words of the longest span (span head). token_head:
    start, end and inside scores of words, in place of scores of spans. rnn_layers: of a BiLSTM over words.
    """

    hidden: int
    max_width: int
    dropout: float
    token_head: bool
    rnn_layers: int = 0


class _Named(nn.Module):  # type: ignore[misc]  # mypy: torch is not followed
    """Holds a module under a name, for GLiNER's parameter names."""

    def __init__(self, name: str, module: nn.Module):
        super().__init__()
        self.add_module(name, module)


def _two_layers(size: int, dropout: float, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, 4 * out), nn.ReLU(), nn.Dropout(dropout), nn.Linear(4 * out, out))


class SpanHead(nn.Module):  # type: ignore[misc]  # mypy: torch is not followed
    """Scores every span of up to max_width words for every type."""

    def __init__(self, hidden: int, max_width: int, dropout: float):
        super().__init__()
        self.max_width = max_width
        self.project_start = _two_layers(hidden, dropout, hidden)
        self.project_end = _two_layers(hidden, dropout, hidden)
        self.out_project = _two_layers(2 * hidden, dropout, hidden)

    def forward(self, words: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return the logits (b, w, max_width, c) of words (b, w, h) and types (b, c, h).

        A span is named by its first word and its width less one. Spans beyond the last word get -inf.
        """
        first, _, dropout, second = self.out_project
        half = words.shape[-1]
        # In place and fused where the backward pass allows it: on CPU the head's time is half memory traffic.
        starts = self.project_start(words).relu_() @ first.weight[:, :half].T + first.bias
        ends = self.project_end(words).relu_() @ first.weight[:, half:].T
        by_type = (types @ second.weight).transpose(1, 2)  # (b, 4h, c)
        constant = (types @ second.bias)[:, None]
        count = words.shape[1]
        widths = []
        for width in range(self.max_width):
            if width < count:
                spans = dropout((starts[:, : count - width] + ends[:, width:]).relu_())
                found = torch.baddbmm(constant, spans, by_type)
            else:
                found = words.new_zeros(len(words), 0, types.shape[1])
            missing = count - found.shape[1]
            widths.append(nn.functional.pad(found, (0, 0, 0, missing), value=-torch.inf))
        return torch.stack(widths, 2)


def begin_unlikely(model: "EncoderModel") -> None:
    """Set the heads' constants so that every new score begins at about -4: mentions are rare.

    Else the first hundred steps teach no more than that; a nano encoder began at a loss of 98 a question.
    """
    with torch.no_grad():
        if model.shape.token_head:
            model.scorer.out_mlp[3].bias.fill_(_PRIOR)
            return
        span, kind = model.span_rep_layer.span_rep_layer.out_project[3], model.prompt_rep_layer[3]
        for layer, sign in ((span, 1), (kind, -1)):
            layer.weight.mul_(_SMALL)
            layer.bias.fill_(sign * (-_PRIOR / len(layer.bias)) ** 0.5)


class TokenHead(nn.Module):  # type: ignore[misc]  # mypy: torch is not followed
    """Scores every word as start, end and inside of a mention of every type."""

    def __init__(self, hidden: int, dropout: float):
        super().__init__()
        self.proj_token = nn.Linear(hidden, 2 * hidden)
        self.proj_label = nn.Linear(hidden, 2 * hidden)
        self.out_mlp = nn.Sequential(
            nn.Linear(3 * hidden, 4 * hidden), nn.Dropout(dropout), nn.ReLU(), nn.Linear(4 * hidden, 3)
        )

    def forward(self, words: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        """Return the logits (b, w, c, 3) of words (b, w, h) and types (b, c, h)."""
        first, *rest = self.out_mlp
        of_word, of_type, of_both = first.weight.chunk(3, 1)
        word, word_factor = self.proj_token(words).chunk(2, -1)
        kind, kind_factor = self.proj_label(types).chunk(2, -1)
        both = (word_factor[:, :, None] * kind_factor[:, None]) @ of_both.T
        hidden = both + (word @ of_word.T)[:, :, None] + (kind @ of_type.T + first.bias)[:, None]
        for layer in rest:
            hidden = layer(hidden)
        return hidden.clone()  # FSDP warns of views, which the linear layer returns


class EncoderModel(nn.Module):  # type: ignore[misc]  # mypy: torch is not followed
    """Text encoder, an optional BiLSTM over the words, and a head."""

    def __init__(self, text_encoder: Any, shape: EncoderShape):
        super().__init__()
        self.shape = shape
        self.token_rep_layer = _Named("bert_layer", _Named("model", text_encoder))
        width = text_encoder.config.hidden_size
        if width != shape.hidden:
            self.token_rep_layer.add_module("projection", nn.Linear(width, shape.hidden))
        if shape.rnn_layers:
            lstm = nn.LSTM(
                shape.hidden, shape.hidden // 2, shape.rnn_layers, bidirectional=True, batch_first=True
            )
            self.rnn = _Named("lstm", lstm)
        if shape.token_head:
            self.scorer = TokenHead(shape.hidden, shape.dropout)
        else:
            head = SpanHead(shape.hidden, shape.max_width, shape.dropout)
            self.span_rep_layer = _Named("span_rep_layer", head)
            self.prompt_rep_layer = _two_layers(shape.hidden, shape.dropout, shape.hidden)

    @property
    def text_encoder(self) -> Any:
        """The Hugging Face model inside."""
        return self.token_rep_layer.bert_layer.model

    def layers(self) -> list[nn.Module]:
        """Return the text encoder's layers, its longest list of modules."""
        modules = self.text_encoder.modules()
        return max((list(module) for module in modules if isinstance(module, nn.ModuleList)), key=len)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        type_places: torch.Tensor,
        word_places: torch.Tensor,
        word_counts: torch.Tensor,
    ) -> torch.Tensor:
        """Return the logits: (b, w, max_width, c) of the span head, (b, w, c, 3) of the token head.

        input_ids, attention_mask: (b, n). type_places: (b, c), the token that stands for each type.
        word_places: (b, w), the token that stands for each word; -1 for a word without tokens, whose vector
        is zero, and beyond the last word. word_counts: (b,).
        """
        tokens = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if hasattr(self.token_rep_layer, "projection"):
            tokens = self.token_rep_layer.projection(tokens)
        types = _pick(tokens, type_places)
        words = _pick(tokens, word_places) * (word_places >= 0)[..., None]
        if self.shape.rnn_layers:
            words = self._with_context(words, word_counts)
        if self.shape.token_head:
            return self.scorer(words, types)
        return self.span_rep_layer.span_rep_layer(words, self.prompt_rep_layer(types))

    def _with_context(self, words: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            words, counts.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        return nn.utils.rnn.pad_packed_sequence(
            self.rnn.lstm(packed)[0], batch_first=True, total_length=words.shape[1]
        )[0]


def encoder_logits(model: Any, batch: EncoderBatch, device: torch.device) -> torch.Tensor:
    """Return the model's logits of a batch."""
    arrays = (batch.input_ids, batch.attention_mask, batch.type_places, batch.word_places, batch.word_counts)
    return model(*(torch.from_numpy(array).to(device) for array in arrays))


def _pick(tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return the vectors (b, k, h) of the tokens at places (b, k); of the first token for -1."""
    index = places.clamp(min=0)[..., None].expand(-1, -1, tokens.shape[-1])
    return tokens.gather(1, index)
