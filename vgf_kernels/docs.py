"""What every frontend's functions do, written once.

B states, N particles a state, A action dims, O observation dims, E critics, L flow steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable)

BACKEND = """backend: "auto", "cuda", "triton" (torch alone), "cpu" or "reference"; "auto" obeys VGF_BACKEND, then takes the
            first engine that serves the arrays' device. A forced engine that cannot run raises.
        precision: "fp32", "tf32", "bf16", or None for the framework's own setting (fp32 on the CPU)."""

DTYPES = "Arrays are float32, and so are results; the reference computes float64 and float16, too."

RAISES = """ValueError: a shape or setting does not fit; the message says what was expected and what to do.
        TypeError: an argument of the wrong type or dtype.
        RuntimeError: the engine is not available here."""

DOCS = {
    "value": """The value of every action by every critic.

    Args:
        critic: MLP from O + A inputs to one output, an ensemble of E.
        obs: [B, O].
        actions: [B, N, A].
        {backend}

    Returns:
        q [E, B, N].
    """,
    "value_and_grad": """The value of every action, and its gradient with respect to the action.

    Args:
        critic: MLP from O + A inputs to one output, an ensemble of E.
        obs: [B, O].
        actions: [B, N, A].
        aggregate: "mean", or "min": the gradient is the smallest critic's, shared evenly by an exact tie.
        {backend}

    Returns:
        q [E, B, N] and dq [B, N, A], the gradient of the sum over (B, N) of the aggregated q.
    """,
    "direction": """The direction phi in which the flow moves the particles.

    Args:
        critic: MLP from O + A inputs to one output, an ensemble of E.
        obs: [B, O].
        particles: [B, N, A].
        config: FlowConfig.
        {backend}

    Returns:
        phi [B, N, A].
    """,
    "flow": """Move the particles along the value gradient flow, config.num_steps steps.

    Args:
        critic: MLP from O + A inputs to one output, an ensemble of E.
        obs: [B, O].
        particles: [B, N, A]; not written to.
        config: FlowConfig.
        trajectory: return the particles of every step, the start included.
        {backend}

    Returns:
        particles [B, N, A], or [L+1, B, N, A] from the first to the last with trajectory=True.
    """,
    "sample": """Draw particles from a flow-matching policy, by Euler steps on its velocity field.

    x <- x + v(obs, x, t) / num_steps with t = i / num_steps for i = 0 .. num_steps - 1.

    Args:
        policy: MLP from O + A + 1 inputs to A outputs.
        obs: [B, O].
        noise: [B, N, A], the start; usually standard normal.
        num_steps: Euler steps, >= 1.
        clip: (low, high) applied once at the end, or None.
        {backend}

    Returns:
        particles [B, N, A].
    """,
    "select": """Pick one particle a state.

    Args:
        q: [B, N], or [E, B, N], which is aggregated first; any floating dtype.
        how: "max" takes the first largest; "softmax" draws with logits q / temperature (Gumbel-max on the
            noise); "uniform" draws any.
        aggregate: "mean" or "min" over the critics.
        temperature: > 0, of "softmax".
        noise: [B, N] uniform in (0, 1), needed by "softmax" and "uniform".
        {backend}

    Returns:
        index [B], int64.
    """,
    "act": """One action a state in one engine call: sample, flow, evaluate on the same critic, select.

    Args:
        critic: MLP from O + A inputs to one output, an ensemble of E.
        policy: MLP from O + A + 1 inputs to A outputs.
        obs: [B, O].
        noise: [B, N, A], usually standard normal.
        euler_steps: steps of `sample`, >= 1; its clip is config.clip.
        config: FlowConfig.
        select: "max", "softmax" or "uniform", as in `select`.
        aggregate: "mean" or "min" over the critics, for the selection.
        temperature: > 0, of "softmax".
        select_noise: [B, N] uniform in (0, 1), needed by "softmax" and "uniform".
        {backend}

    Returns:
        actions [B, A].
    """,
    "td_target": """reward + discount * mask * value of the flowed particles, in one engine call.

    The particles move on the online critic; the target critic evaluates them.

    Args:
        critic: MLP from O + A inputs to one output, an ensemble of E.
        target_critic: MLP from O + A inputs to one output.
        policy: MLP from O + A + 1 inputs to A outputs.
        next_obs: [B, O].
        noise: [B, N, A], usually standard normal.
        reward: [B].
        mask: [B], 0 where the episode ended, else 1.
        discount: a finite number.
        euler_steps: steps of `sample`, >= 1; its clip is config.clip.
        config: FlowConfig.
        aggregate: "mean" or "min" over the target critics.
        reduce: "mean" or "max" over the particles of a state.
        {backend}

    Returns:
        target [B].
    """,
    "transport": """Move particles along any value function: the caller's gradient, our update.

    Args:
        score_fn: score_fn(particles) returns the gradient dq [B, N, A] of the value at particles [B, N, A].
        particles: [B, N, A]; not written to.
        config: FlowConfig; its `aggregate` is not used.
        trajectory: return the particles of every step, the start included.
        {backend}

    Returns:
        particles [B, N, A], or [L+1, B, N, A] from the first to the last with trajectory=True.
    """,
}


def documented(note: str = "") -> Callable[[Function], Function]:
    """Give a function the docstring of its name, with the frontend's own note before what it raises."""

    def decorate(function: Function) -> Function:
        text = DOCS[function.__name__].format(backend=BACKEND)
        notes = [note, "" if function.__name__ == "select" else DTYPES]
        extra = "".join(f"\n    {line}\n" for line in notes if line)
        function.__doc__ = f"{text}{extra}\n    Raises:\n        {RAISES}\n    "
        return function

    return decorate
