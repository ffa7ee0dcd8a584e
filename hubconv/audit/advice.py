"""What to do about each finding. The codes are stable: programs may go by them."""

from typing import Final

_AGAIN: Final = "Convert again from the source; hubconv SOURCE TARGET writes what loaders expect."
_CONFIG: Final = "Correct the entry in the configuration; no weight has to change."
_UPLOAD: Final = "Upload the file again, or ask its publisher to."
_LOADERS: Final = "Use a loader that is not among those named, or convert again."

ADVICE: Final = {
    # files
    "config.missing": "Add the model's config.json with its quantization_config.",
    "file.unreadable": _UPLOAD,
    "header.invalid": _UPLOAD,
    "header.unreadable": _UPLOAD,
    "header.twice": "Remove the shard that does not belong here: which of two tensors is loaded, "
    "differs between loaders.",
    "tree.manifest": "The files are not those that were published together: publish again.",
    "tree.content": _UPLOAD,
    "tree.manifest-unreadable": "Remove the file, or publish again.",
    "index.absent": "Write model.safetensors.index.json, or name a single shard model.safetensors.",
    "index.shard-missing": "Upload the shard; until then no loader starts.",
    "index.ghost": "Upload the shard that holds it, or take it out of the index.",
    "index.missing": "Add it to the index: loaders open only what the index names.",
    "index.shard": "Write the index anew from the shards' headers.",
    "index.total-size": "Write the index anew; most loaders do not mind.",
    # what should be there
    "expected.missing": _AGAIN,
    "expected.differs": _AGAIN,
    "expected.extra": "Remove it, or say --keep for it when converting again.",
    "need.missing": "The checkpoint is not whole: vLLM would start without it and answer nonsense.",
    "source.lost": "Add it, or make sure that the model is served without it.",
    "source.shape": "Name the source that this result was made from.",
    "source.unreadable": "Compare with a source whose weights are all finite.",
    "kept.differs": "Other than the NVFP4 weights nothing should have changed; if its maker folded "
    "scales into it, that is right.",
    # parts of a weight
    "part.none": "Name an NVFP4 checkpoint; this one holds none that loaders would recognise.",
    "part.convention": "Write the configuration of the convention whose names the tensors bear.",
    "part.missing": "Add the tensor: without it engines run on whatever their memory held.",
    "part.input-scale": "Write input scales (1.0 without calibration), or declare weight-only.",
    "part.leftover": "Remove the tensor.",
    "part.dtype": _AGAIN,
    "part.scalar": "Store it with that shape: [1] in compressed-tensors, [] in ModelOpt's.",
    "part.shape": _AGAIN,
    "part.columns": "Leave this weight as it is in the source.",
    "part.orphan": "Remove the scale, or add its weight.",
    "part.fused": "For other loaders store each expert's matrices by themselves.",
    # numbers
    "scale.value": _AGAIN,
    "scale.block": "The weight is damaged: upload its shard again or convert again.",
    "scale.reciprocal": "Store the reciprocal: compressed-tensors divides by weight_global_scale, "
    "ModelOpt multiplies with weight_scale_2.",
    "scale.low": "vLLM's Marlin kernel takes these blocks for zero; hubconv's scale search avoids "
    "such scales.",
    "scale.recorded": _AGAIN,
    "partner.absent": "Engines fuse these: all of them must be in the checkpoint.",
    "partner.mixed": "Quantize all of them or none.",
    "partner.scale": "Quantize them with one global scale: engines use one for all of them, and "
    "the others' values come out wrong.",
    "fused.mixed": "Quantize all of its parts or none.",
    "decoded.nan": "The weight is damaged: upload its shard again or convert again.",
    "decoded.scale": "The global scale is wrong, or the reciprocal of what its convention wants.",
    "decoded.smoothed": "If its maker calibrated so, all is well: the layer before must hold the "
    "inverse.",
    "decoded.far": "It is another weight, or damaged; if its maker rotated the weights, they "
    "cannot be compared with the source.",
    "decoded.blocks": "Some of its bytes are not what was written: upload again or convert again.",
    "decoded.flushed": "Outliers make its global scale too large for the rest: keep the weight "
    "as it is.",
    "decoded.recorded": "Weight, record and source are not of one run: name the right source, or "
    "convert again.",
    # configuration
    "config.shape": _CONFIG,
    "config.field": _CONFIG,
    "config.method": 'Say "compressed-tensors" or "modelopt", whichever the tensors\' names are.',
    "config.stale": "Remove the entry: it describes the source's quantization.",
    "config.linear-in-mixed": 'Write "re:" targets for every group in place of "Linear".',
    "config.regex": _CONFIG,
    "config.regex-prefix": "compressed-tensors: begin an expression with re:. ModelOpt: use stars.",
    "config.entry": "Write the module's name, without .weight.",
    "config.substring": "Write it with a star in front: *.name",
    "config.lists-differ": "Write the same list twice, or one of them.",
    "config.nested": _CONFIG,
    "config.hf-quant": "Correct hf_quant_config.json, or remove it where config.json says it all.",
    "config.ignore-idle": "Remove the entry, or correct it: what it was meant for is not ignored.",
    "config.target-idle": "Remove the entry, or correct it: it quantizes nothing.",
    "match.parts": "List all parts of the fused module or none.",
    "match.unresolved": "Add the module to the ignore list, or to a group's targets.",
    "match.quantized": "Take the entry that hits it out of the ignore list, or write it exactly.",
    "match.kept": "Add the module to the ignore list.",
    "kept.scale": "Spell the scale as the loaders of this convention want it.",
    "v4.field": _CONFIG,
    "v4.expert-dtype": "Remove expert_dtype from config.json, or set it to fp4.",
    "v4.model-type": _LOADERS,
    "v4.not-routed": "Quantize routed experts only; the rest stays FP8.",
    "v4.expert-kept": "Quantize all routed experts.",
    "v4.kept-scale": "Spell the scale as F8_E8M0; powers of two lose nothing.",
}
"""By code. Steps before publishing use some more (`staged.*`), which this command never shows."""
