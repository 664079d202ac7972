"""A trained language model as a folder of transformers: config, weights, and a tokenizer that knows the characters."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from orthostream.errors import UsageError
from orthostream.hub.configuration import OrthoLlamaConfig
from orthostream.hub.language_model import LanguageModel
from orthostream.hub.llama import OrthoLlamaForCausalLM
from orthostream.layouts.architecture import Rule
from orthostream.layouts.residual_keys import keys_of

LAYOUT = "the ortho_llama layout"
VOCABULARY = "vocabulary"
WINDOWS, SEED = 4, 0


def write_language_folder(folder: Path, model: LanguageModel, rule: Rule, vocabulary: Sequence[str]) -> None:
    """Write a folder that ``AutoModelForCausalLM`` and ``AutoTokenizer`` load once ``orthostream.hub`` is imported.

    Args:
        folder: a path that does not exist.
        model: what was trained; a buffer ``vocabulary`` becomes the tokenizer and stays out of the weights.
        rule: the connection of all its sites.
        vocabulary: characters by token.

    Raises:
        UsageError: for a connection that the keys of a config have no words for.
    """
    config = OrthoLlamaConfig.from_dict({**model.model.config.to_dict(), **keys_of(rule, LAYOUT)})
    causal = OrthoLlamaForCausalLM(config)
    causal.load_state_dict({name: value for name, value in model.state_dict().items() if name != VOCABULARY})
    causal.save_pretrained(folder)
    character_tokenizer(vocabulary, config.max_position_embeddings).save_pretrained(folder)


def character_tokenizer(vocabulary: Sequence[str], context: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are characters; a strange one is an error, as there is no token for it.

    Args:
        vocabulary: characters by token.
        context: tokens that the model was trained on at a time.

    Example:
        >>> character_tokenizer(["a", "b", "\\n"], 8)("ab\\na").input_ids
        [0, 1, 2, 0]
    """
    tokens = {sign: token for token, sign in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(tokens))
    # A dot would not match a line break.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=context, clean_up_tokenization_spaces=False
    )


def check_language_folder(folder: Path, model: LanguageModel, vocabulary: Sequence[str], tolerance: float) -> str:
    """Load a folder as a stranger would, and hold its logits and tokens against those of the model.

    Returns:
        What was found, in words.

    Raises:
        UsageError: where logits differ by more than ``tolerance`` of the largest, or the tokenizer reads another text.
    """
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    context, generator = loaded.config.max_position_embeddings, torch.Generator().manual_seed(SEED)
    tokens = torch.randint(len(vocabulary), (WINDOWS, context), generator=generator)
    was_training = model.training
    with torch.no_grad():
        expected, logits = model.eval()(tokens).transpose(1, 2), loaded(tokens, use_cache=False).logits
    model.train(was_training)
    difference, largest = float((logits - expected).abs().max()), max(1.0, float(expected.abs().max()))
    # Written so that NaN is refused too.
    if not difference <= tolerance * largest:
        raise UsageError(f"the folder computes something else: logits differ by {difference:g}; nothing was written")
    tokenizer, text = AutoTokenizer.from_pretrained(folder), "".join(vocabulary)
    if tokenizer(text).input_ids != [*range(len(vocabulary))] or tokenizer.decode([*range(len(vocabulary))]) != text:
        raise UsageError("the tokenizer of the folder does not give back the vocabulary; nothing was written")
    return (
        f"largest difference {difference:.3g}, largest logit {largest:.3g}, {WINDOWS} windows of {context} tokens; all "
        f"{len(vocabulary)} characters come back from the tokenizer"
    )
