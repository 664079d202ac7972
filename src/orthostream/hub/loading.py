"""Loading that refuses: every weight of the model comes from the file, every weight of the file goes into it."""

from typing import Any, ClassVar

from torch import nn

from orthostream.connections import Connection
from orthostream.errors import UsageError

SHOWN = 8


class StrictLoading:
    """``from_pretrained`` where a missing, an unexpected or a misshapen weight is an error that names it.

    transformers warns, and goes on with random numbers in the place of what is missing. Here it is the caller who says
    what may differ:

    - ``ignore_mismatched_sizes=True``: weights of another shape in the file begin anew, such as the classifier after
      another ``num_labels``;
    - ``strict=False``: transformers' own behaviour in all three cases.

    A bare model takes the trunk out of a file with a head; that the head stays behind is what its class says.
    """

    # Beginning of the keys of a head that a bare model leaves in the file.
    left_behind: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *model_args: Any,
        strict: bool = True,
        ignore_mismatched_sizes: bool = False,
        output_loading_info: bool = False,
        **options: Any,
    ) -> Any:
        """As ``PreTrainedModel.from_pretrained``, strict.

        Args:
            pretrained_model_name_or_path: folder or name on the Hub.
            model_args: further arguments of the class.
            strict: refuse missing, unexpected and misshapen weights.
            ignore_mismatched_sizes: weights of another shape begin anew.
            output_loading_info: return what was missing, unexpected and misshapen too.
            options: all options of transformers, such as ``dtype`` and ``device_map``, and keys of the config.

        Returns:
            The model in evaluation mode; with ``output_loading_info`` a pair of it and the findings.

        Raises:
            UsageError: for weights that differ, naming them.
        """
        model, info = super().from_pretrained(  # type: ignore[misc]
            pretrained_model_name_or_path,
            *model_args,
            # Its own error about shapes names no weight.
            ignore_mismatched_sizes=ignore_mismatched_sizes or strict,
            output_loading_info=True,
            **options,
        )
        if strict:
            unexpected = [key for key in info["unexpected_keys"] if not key.startswith(cls.left_behind)]
            misshapen = [] if ignore_mismatched_sizes else info["mismatched_keys"]
            what = f"{pretrained_model_name_or_path} does not fit {cls.__name__}"
            _refuse_differences(what, sorted(info["missing_keys"]), sorted(unexpected), sorted(misshapen))
        return (model, info) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[misc]
        # Models are made on the meta device and filled from the file. Buffers that are in no file, such as a
        # strength, are memory without a value until they are set here.
        if isinstance(module, Connection):
            module.reset_parameters()


def _refuse_differences(what: str, missing: list[str], unexpected: list[str], misshapen: list[Any]) -> None:
    if not (missing or unexpected or misshapen):
        return
    findings = []
    if missing:
        findings.append(f"missing in the file: {_shown(missing)}")
    if unexpected:
        findings.append(f"not known to the model: {_shown(unexpected)}")
    if misshapen:
        shapes = [f"{key} ({list(stored)}, the model has {list(wanted)})" for key, stored, wanted in misshapen]
        findings.append(f"of another shape: {_shown(shapes)}")
    advice = ["check the config against the file"]
    if misshapen:
        advice.append("pass ignore_mismatched_sizes=True to begin weights of another shape anew")
    if any(key.startswith("pooler.") for key in missing):
        advice.append("pass add_pooling_layer=False where the pooler is not wanted")
    advice.append("or pass strict=False to go on regardless, with random numbers for what is missing")
    raise UsageError(f"{what}; {'; '.join(findings)}. Next: {', '.join(advice)}")


def _shown(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more
