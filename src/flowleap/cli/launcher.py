"""Commands on several processes, started by torchrun or `accelerate launch`, and the settings of the latter."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import wraps
from typing import Any

import typer

FAILED = 1


def on_all_processes(command: Callable[..., None]) -> Callable[..., None]:
    """Run a command on all processes that were started together; only the first one prints and warns.

    An error is printed once, by the first process that raises it.
    """

    @wraps(command)
    def run(*args: Any, **options: Any) -> None:
        from flowleap import processes, threads

        code = 0
        try:
            with ExitStack() as held:
                held.enter_context(processes.together(str(options.get("device") or "auto")))
                held.enter_context(threads.limited(options.get("threads") or threads.most()))
                if not processes.first():
                    held.enter_context(redirect_stdout(io.StringIO()))
                    held.enter_context(warnings.catch_warnings())
                    warnings.simplefilter("ignore")
                try:
                    command(*args, **options)
                except typer.Exit as leaving:
                    code = leaving.exit_code
        except processes.Elsewhere:
            code = FAILED
        if code:
            raise typer.Exit(code)

    return run


def spread(
    precision: str | None,
    per_device: int | None,
    accumulate: int | None,
    shard: bool | None,
    compiled: bool | None,
    check: bool,
) -> dict[str, Any]:
    """Return the settings of parallel training; options that are not given are those of `accelerate launch`.

    Raises: typer.BadParameter for float16 and DeepSpeed, which training does not support.
    """
    told = os.environ.get
    launched = told("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", "bf16") and precision is None:
        raise typer.BadParameter(
            f"{launched!r} of accelerate launch: training is in fp32 or bf16; derivatives of the network leave the "
            "range of fp16",
            param_hint="--mixed_precision",
        )
    if told("ACCELERATE_USE_DEEPSPEED", "false") == "true":
        raise typer.BadParameter(
            "DeepSpeed is not supported: divide weights among processes with --shard",
            param_hint="--use_deepspeed",
        )
    steps = int(told("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    fsdp = told("ACCELERATE_USE_FSDP", "false") == "true"
    dynamo = told("ACCELERATE_DYNAMO_BACKEND", "NO").upper() != "NO"
    return {
        "precision": precision or ("bf16" if launched == "bf16" else None),
        "per_device": per_device,
        "accumulate": accumulate or (steps if steps > 1 else None),
        "shard": True if shard is None and fsdp else shard,
        "compiled": True if compiled is None and dynamo else compiled,
        "check": check or None,
    }
