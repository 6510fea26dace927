"""The arguments of vLLM's engine for an engine's settings."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uniner.inference.engine import EngineSettings

# Named by its class: on CPU vLLM replaces "uni" by "mp", to be able to set up threads. Here the variables are
# set before the engine's process starts. This saves a process and a third of a start's CPU time.
_CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_GRAPHS = 512
"""vLLM captures CUDA graphs for batches up to this size by default (see `_cudagraph_arguments`)."""


def vllm_arguments(model: str, settings: "EngineSettings", window: int, with_schemas: bool) -> dict[str, Any]:
    """Return the arguments for a model; window: the context window in tokens."""
    gpus = settings.gpus
    devices = max(1, round(gpus))
    return {
        "model": model,
        "dtype": settings.dtype,
        "quantization": settings.quantization,
        "kv_cache_dtype": settings.kv_cache_dtype or "auto",
        "max_model_len": window,
        "max_num_seqs": settings.max_num_seqs,
        "max_num_batched_tokens": max(settings.max_num_batched_tokens, settings.max_num_seqs),
        "gpu_memory_utilization": settings.gpu_memory_utilization * (gpus if 0 < gpus < 1 else 1),
        "block_size": settings.block_size,
        "enable_prefix_caching": True,
        "enforce_eager": gpus == 0,  # compiling for a CPU takes longer than it saves
        "tensor_parallel_size": devices,
        # Set, because inside a Ray actor vLLM would otherwise ask Ray for workers of its own.
        "distributed_executor_backend": _CPU_EXECUTOR if gpus == 0 else "uni" if devices == 1 else "mp",
        "skip_tokenizer_init": not with_schemas,  # ids in, ids out
        "generation_config": "vllm",  # greedy, whatever the model's folder sets
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "seed": 0,
        **_cudagraph_arguments(settings),
    }


def _cudagraph_arguments(settings: "EngineSettings") -> dict[str, Any]:
    """Return the largest batch with a CUDA graph, where vLLM's own choice is too small.

    vLLM 0.32 captures graphs of 1, 2, 4, then every 8 and from 256 on every 16 tokens, up to twice
    max_num_seqs and at most 512 (1,024 on data-center Blackwell), and runs a larger batch without one
    (`VllmConfig._set_cudagraph_sizes`). A decoding step has a token for each question, so with more than 512
    the fullest steps would be launched kernel by kernel. Steps with new passages are larger and need none:
    computing, not launching, takes their time. 1,024 instead of 512 are 32 graphs more, whose memory vLLM
    counts when it sizes the cache.
    """
    if settings.gpus == 0 or settings.max_num_seqs <= _GRAPHS:
        return {}
    return {"max_cudagraph_capture_size": settings.max_num_seqs}
