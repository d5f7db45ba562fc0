"""Decoding: probabilities of the next character, each strategy against a slow reference, figures of texts."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from research.common.messages import UserError
from research.parts import charlm_sampling
from research.parts.charlm_models import LSTM, TCN, Transformer
from research.parts.charlm_sampling import (
    ACTS_WITH,
    DRAWN,
    EXPLAINED,
    SPAN,
    STRATEGIES,
    Decoding,
    draw,
    filtered,
    generate,
    refuse_unread,
    reorder,
    statistics,
    without_repeats,
    writer,
)

V = 7
MODELS = {
    "lstm": lambda v: LSTM(v, 6, 8, 2),
    "tcn": lambda v: TCN(v, 6, 8, 2, 3),
    "tcn as published": lambda v: TCN(v, 8, 8, 2, 2, norm="none"),
    "transformer": lambda v: Transformer(v, 16, 2, 2, 5),  # a window that the texts below outgrow
    "learned positions": lambda v: Transformer(v, 16, 2, 2, 5, pos="learned"),
}
EACH_MODEL = pytest.mark.parametrize("name", MODELS)


def build(name: str, vocab_size: int = V) -> torch.nn.Module:
    """A model whose texts all differ; in float64, so that no choice depends on rounding."""
    rng = torch.Generator().manual_seed(32)  # with most other seeds texts loop at once
    model = MODELS[name](vocab_size).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=rng, dtype=torch.float64)
    model.head.bias.data.zero_()  # it would favour the same character everywhere
    return model


def ids(*shape: int, high: int = V) -> torch.Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(1))


def write(model, prompt, n, strategy, seed=0, on_char=None, **how) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return generate(model, prompt, n, Decoding(strategy=strategy, **how), rng, on_char)


@torch.no_grad()
def read_anew(model, tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """tokens (1, T) → logits (V,) and the head's input (C,) at the last one, without any state kept."""
    with charlm_sampling._head_inputs(model) as seen:
        if getattr(model, "pos", "") == "learned":  # `forward` cannot go beyond the table
            state = model.start(1, "cpu")
            for t in range(tokens.shape[1]):
                logits, state = model.read(tokens[:, t : t + 1], state)
            return logits[0], seen[-1].flatten()
        return model(tokens)[0, -1], seen[-1][0, -1]


class Always:
    """A model that predicts the same whatever it has read."""

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def start(self, batch_size, device):
        return []

    def read(self, tokens, state):
        return self.logits.expand(len(tokens), -1), state

    step = read


# ------------------------------------------------------------------------------------------------ filtered

HALVES = torch.tensor([0.1, 0.5, 0.25, 0.15]).log()[None]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({"strategy": "temperature"}, [0.1, 0.5, 0.25, 0.15]),
        ({"strategy": "temperature", "temperature": 0.5}, [0.01, 0.25, 0.0625, 0.0225]),  # p² before norming
        ({"strategy": "top_k", "top_k": 2}, [0, 0.5, 0.25, 0]),
        ({"strategy": "top_k", "top_k": 9}, [0.1, 0.5, 0.25, 0.15]),
        ({"strategy": "top_p", "top_p": 0.49}, [0, 1, 0, 0]),
        ({"strategy": "top_p", "top_p": 0.51}, [0, 0.5, 0.25, 0]),
        ({"strategy": "top_p", "top_p": 0.76}, [0, 0.5, 0.25, 0.15]),
        ({"strategy": "top_p", "top_p": 1.0}, [0.1, 0.5, 0.25, 0.15]),
        ({"strategy": "min_p", "min_p": 0.29}, [0, 0.5, 0.25, 0.15]),
        ({"strategy": "min_p", "min_p": 0.31}, [0, 0.5, 0.25, 0]),
        ({"strategy": "min_p", "min_p": 1.0}, [0, 1, 0, 0]),
        ({"strategy": "min_p", "min_p": 0.0}, [0.1, 0.5, 0.25, 0.15]),
        # after the temperature: at 0.5 the shares of the largest are 0.04, 1, 0.25, 0.09
        ({"strategy": "min_p", "min_p": 0.1, "temperature": 0.5}, [0, 0.25, 0.0625, 0]),
    ],
)
def test_filtered_by_hand(how, expected):
    p = filtered(HALVES, Decoding(**how))[0].tolist()
    assert p == pytest.approx([e / sum(expected) for e in expected], abs=1e-7)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=12),
    st.floats(0.05, 5),
    st.integers(1, 14),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_filtered_keeps_what_it_says_in_proportion(logits, temperature, top_k, top_p, min_p):
    x, p = torch.tensor([logits]), {}
    for strategy in DRAWN:
        how = Decoding(strategy=strategy, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        p[strategy] = filtered(x, how)[0]
        assert p[strategy].sum().item() == pytest.approx(1, abs=1e-12)
        assert p[strategy][x[0].argmax()] > 0
    full, kept = p["temperature"], {strategy: p[strategy] > 0 for strategy in DRAWN}
    for strategy in ("top_k", "top_p", "min_p"):
        inside = kept[strategy]
        assert torch.allclose(p[strategy][inside], full[inside] / full[inside].sum(), rtol=1e-9)
    assert kept["top_k"].sum() <= top_k
    for strategy in ("top_k", "top_p"):  # nothing left out is larger than what stays
        assert (full[~kept[strategy]][:, None] <= full[kept[strategy]]).all()
    nucleus = full[kept["top_p"]]
    assert nucleus.sum() >= top_p - 1e-12
    assert nucleus.sum() - nucleus.min() < top_p + 1e-12  # one fewer would not do
    assert torch.equal(kept["min_p"], (full >= min_p * full.max()) & (full > 0))


def test_temperature_near_0_is_argmax():
    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    some = x.masked_fill(x == x.amin(1, keepdim=True), -math.inf)  # a character that is impossible stays so
    for strategy, t in itertools.product(DRAWN, (1e-5, 1e-30, 1e-200, 1e-310, 5e-324)):
        for logits in (x, some):
            p = filtered(logits, Decoding(strategy=strategy, temperature=t))
            assert torch.equal(p, torch.nn.functional.one_hot(x.argmax(1), 9).double())


def test_what_is_impossible_stays_so():
    x = torch.tensor([[0.0, -math.inf, 1.0]])
    for strategy in DRAWN:
        assert filtered(x, Decoding(strategy=strategy, top_p=1.0, min_p=0.0))[0, 1] == 0


@pytest.mark.parametrize("strategy", DRAWN)
def test_draws_are_as_frequent_as_they_are_probable(strategy):
    how, n = {"top_k": 4, "top_p": 0.8, "min_p": 0.3, "temperature": 1.5}, 40_000
    logits = torch.randn(V, generator=torch.Generator().manual_seed(0))
    p = filtered(logits[None], Decoding(strategy=strategy, **how))[0]
    drawn = write(Always(logits), ids(n // 4, 1), 4, strategy, **how)
    counts = torch.bincount(drawn.flatten(), minlength=V).double()
    assert torch.equal(counts > 0, p > 0)
    chi2 = ((counts - n * p) ** 2 / (n * p))[p > 0].sum()
    assert chi2 < 22.5  # at 6 degrees of freedom exceeded once in 1000


@pytest.mark.parametrize("v", [2, 7, 65, 300])
def test_draws_are_those_of_multinomial(v):
    """Texts stay the same as long as torch draws a category as it does now."""

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    p = torch.rand(3, v, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    p[:, 0] = 0
    ours, theirs = generators(), generators()
    for _ in range(20):
        expected = [torch.multinomial(row, 1, generator=one) for row, one in zip(p, theirs, strict=True)]
        assert torch.equal(draw(p, ours), torch.cat(expected))
        assert torch.equal(draw(p, ours[0]), torch.multinomial(p, 1, generator=theirs[0])[:, 0])


def test_a_normalised_weight_is_computed_once_for_a_text():
    model, calls = build("tcn as published"), []
    conv = model.blocks[0].convs[0]
    conv.parametrizations.weight[0].register_forward_hook(lambda *_: calls.append(1))
    write(model, ids(1, 3), 10, "temperature")
    assert len(calls) == 1
    model.forward(ids(1, 3))  # afterwards it is computed anew, so that training goes on
    assert len(calls) == 2


def test_nothing_is_drawn_from_what_is_not_a_number():
    with pytest.raises(AssertionError, match="not numbers"):
        write(Always(torch.tensor([0.0, math.nan])), ids(1, 1), 1, "temperature")


@pytest.mark.parametrize(
    "flag",
    [
        {"strategy": "nucleus"},
        {"temperature": 0.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"no_repeat": -1},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"beam_width": 0},
        {"alpha": -0.1},
        {"alpha": 1.1},
    ],
)
def test_decoding_refuses_what_is_impossible(flag):
    ((name, value),) = flag.items()
    with pytest.raises(UserError, match=f"^--{name}={value}: must be "):
        Decoding(**flag)


# ------------------------------------------------------------------------------------------------ reorder


@EACH_MODEL
@torch.no_grad()
def test_reordered_states_go_on_as_the_texts_they_are_copied_from(name):
    model, rows = build(name), torch.tensor([2, 0, 0, 1, 2])
    for n_read in (1, 3, 12):  # before and after the window is full
        text, more = ids(3, n_read), ids(5, 7)
        _, state = model.read(text, model.start(3, "cpu"))
        new = reorder(state, rows)
        _, expected_state = model.read(text[rows], model.start(5, "cpu"))
        for t in range(7):
            logits, new = model.step(more[:, t], new)
            expected, expected_state = model.step(more[:, t], expected_state)
            assert torch.allclose(logits, expected, atol=1e-9)
        again, _ = model.step(more[:3, 0], state)  # the old one is as it was
        _, fresh = model.read(text, model.start(3, "cpu"))
        assert torch.allclose(again, model.step(more[:3, 0], fresh)[0], atol=1e-9)


# ------------------------------------------------------------------------------------------------ generate


@EACH_MODEL
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_writes_as_much_as_asked_with_every_model(name, strategy):
    model, streamed = build(name).float(), []
    before = torch.get_rng_state()
    text = write(model, ids(3, 4), 13, strategy, on_char=streamed.append)
    assert text.shape == (3, 13)
    assert text.dtype == torch.int64
    assert text.min() >= 0
    assert text.max() < V
    assert torch.equal(torch.stack(streamed, 1), text)
    assert torch.equal(write(model, ids(3, 4), 13, strategy), text)
    if strategy in DRAWN:
        assert not torch.equal(write(model, ids(3, 4), 13, strategy, seed=1), text)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn from torch's own generator
    assert write(model, ids(3, 4), 0, strategy, on_char=streamed.append).shape == (3, 0)
    assert write(model, ids(2, 1), 1, strategy).shape == (2, 1)
    assert len(streamed) == 13
    assert not model.head._forward_pre_hooks
    assert not text.requires_grad


@EACH_MODEL
@pytest.mark.parametrize("strategy", ["greedy", "beam", "contrastive"])
def test_texts_of_a_batch_do_not_depend_on_each_other(name, strategy):
    model, prompt = build(name), ids(4, 3)
    together = write(model, prompt, 9, strategy, top_k=3)
    alone = torch.cat([write(model, p[None], 9, strategy, top_k=3) for p in prompt])
    assert torch.equal(together, alone)


@pytest.mark.parametrize("strategy", DRAWN)
def test_texts_with_draws_of_their_own_do_not_depend_on_each_other(strategy):
    """Texts don't depend on how many there are either; with one generator for all, a text depends on those
    before it.
    """
    model, prompt, how = build("lstm"), ids(4, 3), Decoding(strategy=strategy, top_k=4)
    together = generate(model, prompt, 9, how, [rng(i) for i in range(4)])
    alone = [generate(model, prompt[i : i + 1], 9, how, [rng(i)]) for i in range(4)]
    assert torch.equal(together, torch.cat(alone))
    shared = [generate(model, prompt[i : i + 1], 9, how, rng(i)) for i in range(4)]
    assert torch.equal(together, torch.cat(shared))  # of a single text it makes no difference
    assert not torch.equal(generate(model, prompt, 9, how, rng(0)), together)
    with pytest.raises(AssertionError, match="3 generators for 4 texts"):
        generate(model, prompt, 9, how, [rng(i) for i in range(3)])


# ------------------------------------------------------------------------------------------------ no_repeat


@pytest.mark.parametrize(
    ("n", "repeats"),
    [
        (0, []),
        (1, [0, 1, 2]),  # each character that is there
        (2, [1, 2]),  # what has followed 1
        (3, [2]),  # what has followed 0, 1
        (4, [2]),
        (5, []),
        (9, []),
        (10, []),  # more than there is
    ],
)
def test_what_would_be_a_repeat_by_hand(n, repeats):
    text = torch.tensor([[2, 0, 1, 2, 1, 1, 2, 0, 1]])
    logits = torch.arange(4.0)[None]
    found = without_repeats(logits, text, n)[0]
    assert [i for i in range(4) if found[i] == -math.inf] == repeats
    assert all(found[i] == logits[0, i] for i in range(4) if i not in repeats)


def test_where_nothing_else_is_possible_a_repeat_may_be_written():
    text = torch.tensor([[0, 1, 0, 0], [0, 0, 0, 0]])
    logits = torch.tensor([[0.5, 0.7], [0.5, 0.7]])
    found = without_repeats(logits, text, 2)
    assert torch.equal(found[0], logits[0]) and found[1].tolist() == pytest.approx([-math.inf, 0.7])
    gone = torch.tensor([[0.5, -math.inf]])  # a character that the model itself excludes is no way out
    assert torch.equal(without_repeats(gone, text[1:], 2), gone)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(STRATEGIES),
    st.sampled_from(sorted(MODELS)),
    st.integers(2, 6),
    st.integers(1, 6),
    st.integers(1, 40),
    st.integers(0, 9),
)
def test_nothing_is_written_twice_unless_nothing_else_is_possible(strategy, name, v, n, n_chars, seed):
    model, prompt = build(name, v), ids(2, 3, high=v)
    made = write(model, prompt, n_chars, strategy, seed, no_repeat=n, top_k=3, beam_width=3)
    assert made.shape == (2, n_chars)
    for whole in torch.cat((prompt, made), 1).tolist():
        for end in range(prompt.shape[1] + 1, len(whole) + 1):
            earlier = {tuple(whole[i : i + n]) for i in range(end - n)}
            if end >= n and tuple(whole[end - n : end]) in earlier:
                begun = tuple(whole[end - n : end - 1])
                assert all((*begun, c) in earlier for c in range(v)), f"{begun} could have gone on otherwise"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_that_is_sure_of_its_circle_is_led_out_of_it(strategy):
    """The preferred character is written as long as it is new; with no_repeat=0 the circle never ends."""
    sure = Always(torch.tensor([9.0, 6.0, 3.0, 0.0]))
    if strategy == "contrastive":
        sure = build("lstm", 4)
        sure.head.bias.data = torch.tensor([200.0, 100.0, 0.0, -100.0], dtype=torch.float64)
    how = {"temperature": 1e-9, "alpha": 0.0, "top_k": 2, "top_p": 0.5}
    prompt = torch.tensor([[0]])
    assert write(sure, prompt, 9, strategy, **how)[0].tolist() == [0] * 9
    led = write(sure, prompt, 9, strategy, no_repeat=3, **how)[0].tolist()
    if strategy != "beam":  # which looks ahead
        assert led[:6] == [0, 0, 1, 0, 0, 2]
    whole = [0, *led]
    runs = [tuple(whole[i : i + 3]) for i in range(len(whole) - 2)]
    assert len(set(runs)) == len(runs)


def test_a_flag_that_the_strategy_does_not_look_at_is_refused():
    values = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.5, "beam_width": 2, "alpha": 0.5}
    assert values.keys() == ACTS_WITH.keys()
    for strategy in STRATEGIES:
        refuse_unread(Decoding(strategy=strategy, no_repeat=5))
        for name, value in values.items():
            how = Decoding(strategy=strategy, **{name: value})
            if strategy in ACTS_WITH[name]:
                refuse_unread(how)
                continue
            with pytest.raises(
                UserError, match=rf"^--{name}={value}: must be left out with --strategy={strategy};"
            ):
                refuse_unread(how)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_flags_act_with_the_strategies_that_are_said_to_look_at_them(strategy):
    """A flag at another value changes what is written exactly if ACTS_WITH says so."""
    others = {"temperature": 9.0, "top_k": 2, "top_p": 0.1, "min_p": 0.9, "beam_width": 1, "alpha": 0.0}
    plain, prompt = build("lstm"), ids(3, 2)
    plain.head.weight.data *= 0.1  # so that nothing is certain
    base = write(plain, prompt, 40, strategy)
    changed = {
        k for k, v in others.items() if not torch.equal(write(plain, prompt, 40, strategy, **{k: v}), base)
    }
    assert changed == {k for k, strategies in ACTS_WITH.items() if strategy in strategies}


@EACH_MODEL
def test_greedy_is_the_argmax_of_reading_the_whole_text_anew(name):
    model, prompt = build(name), ids(3, 3)
    text = write(model, prompt, 12, "greedy")
    for p, t in zip(prompt, text):
        for i in range(12):
            logits, _ = read_anew(model, torch.cat((p, t[:i]))[None])
            assert t[i] == logits.argmax()
    assert len(text.unique()) > 2  # else little has been tested


@EACH_MODEL
def test_beams_of_one_contrast_of_none_and_draws_of_one_are_greedy(name):
    model, prompt = build(name), ids(3, 2)
    greedy = write(model, prompt, 12, "greedy")
    assert torch.equal(write(model, prompt, 12, "beam", beam_width=1), greedy)
    assert torch.equal(write(model, prompt, 12, "contrastive", alpha=0.0), greedy)
    assert torch.equal(write(model, prompt, 12, "contrastive", alpha=1.0, top_k=1), greedy)
    assert torch.equal(write(model, prompt, 12, "top_k", top_k=1), greedy)
    assert torch.equal(write(model, prompt, 12, "temperature", temperature=1e-9), greedy)


@torch.no_grad()
def log_p(model, prompt, texts) -> torch.Tensor:
    """prompt (P,), texts (N, n) → log probability of each text (N,)."""
    tokens = torch.cat((prompt.expand(len(texts), -1), texts), 1)
    scores = torch.log_softmax(model(tokens), -1)[:, len(prompt) - 1 : -1]
    return scores.gather(2, texts[..., None]).sum((1, 2))


@pytest.mark.parametrize("name", ["lstm", "tcn", "transformer"])
def test_a_beam_wide_enough_finds_the_most_probable_of_all_texts(name):
    v, n = 3, 5
    model, prompt = build(name, v), ids(4, 2, high=v)
    every = torch.tensor(list(itertools.product(range(v), repeat=n)))
    found = write(model, prompt, n, "beam", beam_width=v ** (n - 1))
    best = torch.stack([every[log_p(model, p, every).argmax()] for p in prompt])
    assert torch.equal(found, best)


@pytest.mark.parametrize("width", [2, 5])
@pytest.mark.parametrize("name", ["lstm", "tcn", "transformer"])
def test_a_narrow_beam_keeps_the_best_beginnings(name, width):
    model, prompt, n = build(name), ids(3, 2), 8
    expected = []
    for p in prompt:
        texts = torch.empty(1, 0, dtype=torch.int64)
        for _ in range(n):
            longer = torch.cat(
                (texts.repeat_interleave(V, 0), torch.arange(V).repeat(len(texts))[:, None]), 1
            )
            texts = longer[log_p(model, p, longer).topk(min(width, len(longer))).indices]
        expected.append(texts[0])
    assert torch.equal(write(model, prompt, n, "beam", beam_width=width), torch.stack(expected))


@EACH_MODEL
def test_contrastive_search_is_equation_5(name, monkeypatch):
    monkeypatch.setattr(charlm_sampling, "N_COMPARED", 4)
    model, prompt, alpha, k = build(name), ids(2, 3), 0.5, 4
    written = write(model, prompt, 10, "contrastive", alpha=alpha, top_k=k)
    for p, text in zip(prompt, written):
        logits, h = read_anew(model, p[None])
        past = [h]
        for i, chosen in enumerate(text):
            scores = {}
            for c in torch.softmax(logits, 0).topk(k).indices.tolist():
                then = read_anew(model, torch.cat((p, text[:i], torch.tensor([c])))[None])
                likeness = max(torch.cosine_similarity(then[1], h, 0) for h in past[-4:])
                scores[c] = ((1 - alpha) * torch.softmax(logits, 0)[c] - alpha * likeness, *then)
            assert chosen == max(scores, key=lambda c: scores[c][0])
            _, logits, h = scores[int(chosen)]
            past.append(h)
    assert not torch.equal(written, write(model, prompt, 10, "greedy"))


def test_the_hook_is_gone_after_an_error_too():
    def stop(_):
        raise RuntimeError("stop")

    model = build("lstm")
    with pytest.raises(RuntimeError, match="stop"):
        write(
            model, ids(1, 1), 5, "contrastive", on_char=lambda _: (_ for _ in ()).throw(RuntimeError("stop"))
        )
    assert not model.head._forward_pre_hooks


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_bf16_autocast(strategy):
    for name in ("lstm", "tcn", "transformer"):
        with torch.autocast("cpu", torch.bfloat16):
            assert write(build(name).float(), ids(2, 3), 6, strategy).shape == (2, 6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@EACH_MODEL
def test_cuda_writes_what_the_cpu_writes(name):
    model, prompt = build(name), ids(3, 4)
    expected = {strategy: write(model, prompt, 9, strategy) for strategy in STRATEGIES}
    for strategy, text in expected.items():
        assert torch.equal(write(model.cuda(), prompt.cuda(), 9, strategy).cpu(), text)


def test_generate_refuses_what_it_cannot_do():
    model = build("lstm")
    for prompt, n, said in (
        (ids(1, 0), 1, r"\(1, 0\)"),
        (ids(3), 1, r"\(3,\)"),
        (ids(1, 1), -1, "n_chars=-1"),
    ):
        with pytest.raises(AssertionError, match=said):
            write(model, prompt, n, "greedy")


def test_every_strategy_is_explained():
    assert tuple(EXPLAINED) == STRATEGIES
    assert all("Typical failure" in paragraph for paragraph in EXPLAINED.values())


# ------------------------------------------------------------------------------------------------ statistics


def test_statistics_known_values():
    s = statistics("a b a b\na c", "x a b a y")
    assert s["distinct_1"] == 3 / 6
    assert s["distinct_2"] == 3 / 5  # ab ba ab ba ac
    assert s["distinct_3"] == 3 / 4  # aba bab aba bac
    assert s["repetition"] == 0
    assert s["copied"] == len("a b a ")
    assert statistics("", "abc") == {
        "distinct_1": 1,
        "distinct_2": 1,
        "distinct_3": 1,
        "repetition": 0,
        "copied": 0,
        "known_words": 1,
    }
    assert statistics("one", "")["copied"] == 0
    assert statistics("The cat's\nmat, thee", "the mat - cats")["known_words"] == 2 / 4  # the, mat
    assert statistics("The cat\u2019s", "THE CAT'S")["known_words"] == 1
    assert statistics("- ...", "")["known_words"] == 1
    assert statistics("the whole text", "in the whole texts")["copied"] == 14


def test_repetition_known_values():
    twenty = "abcdefghijklmnopqrst"
    assert statistics(twenty + "-" + twenty, "")["repetition"] == 40 / 41
    assert statistics(twenty[:19] + "-" + twenty[:19], "")["repetition"] == 0
    assert statistics("." + twenty + "!,-" + twenty + "?", "")["repetition"] == 40 / 45
    assert statistics("a" * 21, "")["repetition"] == 1  # overlapping spans are two as well
    assert statistics("a" * 20, "")["repetition"] == 0


@settings(max_examples=100, deadline=None)
@given(st.text("ab ", max_size=40), st.text("ab ", max_size=40))
def test_statistics_equal_those_of_the_definition(text, training):
    spans = {text[i:j] for i in range(len(text)) for j in range(i + 1, len(text) + 1)}
    copied = max((len(span) for span in spans if span in training), default=0)
    assert statistics(text, training)["copied"] == copied
    starts = range(len(text) - SPAN + 1)
    covered = {
        i + d
        for i, j in itertools.permutations(starts, 2)
        if text[i : i + SPAN] == text[j : j + SPAN]
        for d in range(SPAN)
    }
    assert statistics(text, training)["repetition"] == len(covered) / max(len(text), 1)


# ------------------------------------------------------------------------------------------------ lines


@pytest.mark.parametrize("kind", ["lstm", "tcn", "transformer"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_model_of_lines_begins_anew_with_each(kind, strategy):
    """After a line's end it writes what it would write after that end by itself, whatever came before."""
    model, newline = line_model(kind), 3
    pen = writer(model, "lines", "abc\ndefg")
    how = Decoding(strategy=strategy, top_k=3, beam_width=3)
    rows = torch.tensor([[5, 6, newline, 1], [2, newline, newline, 1], [0, 1, 2, newline]])
    one = torch.cat([generate(pen, row[None], 12, how, rng(i)) for i, row in enumerate(rows)])
    alone = [torch.tensor([[newline, 1]]), torch.tensor([[newline, 1]]), torch.tensor([[newline]])]
    same = torch.cat([generate(pen, row, 12, how, rng(i)) for i, row in enumerate(alone)])
    assert torch.equal(one, same)
    if strategy not in DRAWN:  # drawn ones share a generator
        assert torch.equal(generate(pen, rows, 12, how, rng(0)), one)
    assert writer(model, "stream", "abc\ndefg") is model


@pytest.mark.parametrize("kind", ["lstm", "tcn", "transformer"])
@torch.no_grad()
def test_lines_are_told_as_in_training(kind):
    """Each character depends on those of its own line and the end of the line before, all read at once."""
    model, newline = line_model(kind), 3
    pen, text = (
        writer(model, "lines", "abc\ndefg"),
        torch.randint(8, (1, 40), generator=rng(1)),
    )
    text[0, ::7] = newline
    logits, state = pen.read(text[:, :2], pen.start(1, "cpu"))
    for i in range(2, 40):
        begin = max(j for j in range(i) if text[0, j] == newline)
        torch.testing.assert_close(logits, model(text[:, begin:i])[:, -1], rtol=1e-4, atol=1e-4)
        logits, state = pen.step(text[:, i], state)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def line_model(kind: str):
    """A model of 8 characters whose lines are short: the third, a newline, is probable."""
    torch.manual_seed(0)
    made = {
        "lstm": lambda: LSTM(8, 8, 16, 1),
        "tcn": lambda: TCN(8, 8, 8, 2, 2),
        "transformer": lambda: Transformer(8, 16, 2, 2, 32),
    }[kind]()
    for p in made.parameters():
        p.data.add_(0.4 * torch.randn_like(p))
    made.head.bias.data[3] += 1.5
    return made.eval()
