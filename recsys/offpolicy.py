"""What a new policy's click rate would be, from the log of another: off-policy evaluation.

A log tells what was shown, with which probability (the propensity), and whether it was clicked.
What was not shown has no answer in it, so a new policy's rate is estimated by weighting the answers
that are there, by a model of the clicks, or by both. The policies here choose an item for each
context, and contexts are few: in the Open Bandit Dataset (Saito et al., 2021) the position.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy.stats import binomtest

from recsys.data.columns import ITEM
from recsys.data.impressions import POSITION, load_impressions
from recsys.data.source import local_copy
from recsys.data.tables import Column, read_table
from recsys.errors import RecsysError

PROBABILITY = Column(
    "probability", "number", allowed=lambda value: value.is_between(0, 1),
    wanted="a number from 0 to 1",
)  # fmt: skip
# Of a policy's probabilities to 1, as a file with a few digits an item gives them.
SUM_TOLERANCE = 1e-4
# Of the rounds, when the model of the reward is fitted.
FOLDS = 5
ESTIMATORS = ("IPS", "clipped IPS", "SNIPS", "direct method", "doubly robust")


@dataclass(frozen=True)
class BanditLog:
    """Rounds of a logging policy: a context, the action chosen in it, and what came of it.

    Attributes
    ----------
    contexts, actions
        Names; the arrays below hold indices into them.
    context, action
        int64[rounds].
    reward
        float64[rounds]; for clicks 0 or 1.
    propensity
        float64[rounds] in (0, 1]: with which probability the logging policy chose the action.
    """

    contexts: list[str]
    actions: list[str]
    context: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray

    def __len__(self) -> int:
        return len(self.reward)

    def take(self, rounds: np.ndarray) -> BanditLog:
        """The given rounds, by number or by mask; names stay."""
        columns = ("context", "action", "reward", "propensity")
        return replace(self, **{name: getattr(self, name)[rounds] for name in columns})


@dataclass(frozen=True)
class Policy:
    """Which action it chooses in each context, with which probability.

    Attributes
    ----------
    contexts, actions
        Names.
    probability
        float64[contexts, actions]; each row sums to 1.
    """

    contexts: list[str]
    actions: list[str]
    probability: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A mean reward: how it was found, its standard error and the ends of its interval."""

    estimator: str
    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True)
class PolicyEvaluation:
    """Estimates of a policy's rate, and how much the log can say of it.

    Attributes
    ----------
    rounds
        Rounds of the log.
    effective_rounds
        Kish's effective sample size, (sum w)² / sum w² of the importance weights w: rounds of the
        new policy itself that would tell as much.
    largest_weight
        The heaviest round's weight.
    unsupported
        Probability that the new policy chooses what the log never shows in that context. IPS and
        doubly robust are without bias only where it is 0.
    """

    estimates: list[Estimate]
    rounds: int
    effective_rounds: float
    largest_weight: float
    unsupported: float


def load_log(path: Path | str) -> BanditLog:
    """Read a log of impressions: the items are the actions, the positions the contexts.

    Parameters
    ----------
    path
        As in `recsys.data.impressions.load_impressions`.

    Raises
    ------
    RecsysError
        When nothing readable is there; a bad row is named by line.
    """
    impressions = load_impressions(path)
    contexts, context = _indices(impressions["position"])
    actions, action = _indices(impressions["item"])
    return BanditLog(
        contexts=contexts,
        actions=actions,
        context=context,
        action=action,
        reward=impressions["click"].cast(pl.Float64).to_numpy(),
        propensity=impressions["propensity"].to_numpy(),
    )


def load_policy(path: Path | str) -> Policy:
    """Read a policy from a table with the columns ``item``, ``position`` and ``probability``.

    Pairs of item and position that are left out have probability 0.

    Raises
    ------
    RecsysError
        When nothing readable is there, a probability is out of [0, 1], a pair comes twice, or the
        probabilities of a position do not sum to 1.
    """
    with local_copy(path) as file:
        rows = read_table(file).load((ITEM, POSITION, PROBABILITY))
    contexts, context = _indices(rows["position"].cast(pl.Int32))
    actions, action = _indices(rows["item"])
    if (twice := rows.select("item", "position").is_duplicated()).any():
        row = int(twice.arg_true()[0])
        raise RecsysError(
            f"{path}: item {actions[action[row]]!r} at position {contexts[context[row]]} comes "
            "twice; keep one row"
        )
    table = np.zeros((len(contexts), len(actions)))
    table[context, action] = rows["probability"].to_numpy()
    for name, total in zip(contexts, table.sum(1), strict=True):
        if abs(total - 1) > SUM_TOLERANCE:
            raise RecsysError(
                f"{path}: the probabilities of position {name} sum to {total:.6g}, it must be 1"
            )
    return Policy(contexts, actions, table)


def uniform_policy(log: BanditLog) -> Policy:
    """Every item of the log with the same probability, in every context."""
    shape = len(log.contexts), len(log.actions)
    return Policy(log.contexts, log.actions, np.full(shape, 1 / len(log.actions)))


def logging_policy(log: BanditLog) -> Policy:
    """The policy that a log was written by, averaged over its time, from the logged propensities.

    A policy that learns, such as Thompson sampling, changes while it logs. The plain mean of the
    propensities logged with an action overstates its share, since an action is logged most while
    it is likely: for the Open Bandit logs these means sum to 1.7 to 3.4 a position. Their harmonic
    mean does not: with p_t the probability in round t, an action is logged in about sum_t p_t
    rounds and its 1 / p_t add up to about the number of all rounds. What little is left of the
    difference goes with scaling each context to 1.
    """
    shape = len(log.contexts), len(log.actions)
    shown = _sums(log, np.ones(len(log)), shape)
    inverse = _sums(log, 1 / log.propensity, shape)
    mean = np.divide(shown, inverse, out=np.zeros(shape), where=shown > 0)
    return Policy(log.contexts, log.actions, mean / mean.sum(1, keepdims=True))


def observed_rate(log: BanditLog, *, confidence: float = 0.95) -> Estimate:
    """Click rate of the policy that wrote a log, with Wilson's interval (1927)."""
    clicks, rate = int(log.reward.sum()), float(log.reward.mean())
    interval = binomtest(clicks, len(log)).proportion_ci(confidence, method="wilson")
    error = float(np.sqrt(rate * (1 - rate) / len(log)))
    return Estimate("observed", rate, error, float(interval.low), float(interval.high))


def evaluate_policy(
    log: BanditLog,
    policy: Policy,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PolicyEvaluation:
    """Estimate a policy's mean reward in the log's contexts, by five estimators.

    With w the policy's probability of the logged action over its propensity, r the reward and q a
    model of the reward:

    - IPS, the mean of w r (Horvitz and Thompson, 1952): no bias, but a high variance where w is
      large;
    - clipped IPS, with w cut at the square root of the number of rounds (Ionides, 2008);
    - SNIPS, sum of w r over sum of w (Swaminathan and Joachims, 2015): a small bias for less
      variance;
    - the direct method, the policy's mean of q: as good as the model is;
    - doubly robust, the direct method plus the mean of w (r - q) (Dudík et al., 2011): no bias,
      and less variance than IPS the better q is. Each round's q comes from the other folds' rounds.

    q is the mean reward of the action in the context, drawn to the mean of all by as many rounds as
    bring one unit of reward on average. Standard errors and intervals are those of a bootstrap over
    rounds in which q is fitted anew each time; the policy itself is taken as known.

    Parameters
    ----------
    resamples
        Of the bootstrap.
    confidence
        Of the intervals, in (0, 1).
    seed
        Of the folds and the bootstrap.

    Raises
    ------
    RecsysError
        When the log has fewer than `FOLDS` rounds, or the policy lacks a context of it.
    """
    if len(log) < FOLDS:
        raise RecsysError(f"the log has {len(log)} rounds; an estimate needs {FOLDS} or more")
    log, table = _aligned(log, policy)
    generator = np.random.default_rng(seed)
    # A round keeps its fold when it is drawn twice: its copy must not tell the model its answer.
    folds = generator.permutation(len(log)) % FOLDS
    values = _estimates(log, table, folds)
    drawn = np.array(
        [
            _estimates(log.take(rounds), table, folds[rounds])
            for rounds in (generator.integers(len(log), size=len(log)) for _ in range(resamples))
        ]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    weight = table[log.context, log.action] / log.propensity
    shown = _sums(log, np.ones(len(log)), table.shape) > 0
    share = np.bincount(log.context, minlength=len(table)) / len(log)
    return PolicyEvaluation(
        estimates=[
            Estimate(*row)
            for row in zip(
                ESTIMATORS,
                values.tolist(),
                drawn.std(axis=0, ddof=1).tolist(),
                low.tolist(),
                high.tolist(),
                strict=True,
            )
        ],
        rounds=len(log),
        effective_rounds=float(weight.sum() ** 2 / max((weight**2).sum(), 1e-300)),
        largest_weight=float(weight.max()),
        unsupported=float(share @ (table * ~shown).sum(1)),
    )


def _estimates(log: BanditLog, table: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """float64[estimators], in the order of `ESTIMATORS`."""
    weight = table[log.context, log.action] / log.propensity
    weighted = weight * log.reward
    clipped = np.minimum(weight, np.sqrt(len(log))) * log.reward

    # float64[folds, contexts, actions], summed over the rounds of each fold.
    shape = (FOLDS, *table.shape)
    cell = np.ravel_multi_index((folds, log.context, log.action), shape)
    size = int(np.prod(shape))
    rewards = np.bincount(cell, log.reward, minlength=size).reshape(shape)
    rounds = np.bincount(cell, minlength=size).reshape(shape)
    all_rewards, all_rounds = rewards.sum(0), rounds.sum(0)
    fitted = _mean_rewards(all_rewards, all_rounds)
    fitted_elsewhere = np.stack(
        [
            _mean_rewards(all_rewards - rewards[fold], all_rounds - rounds[fold])
            for fold in range(FOLDS)
        ]
    )
    expected = (table * fitted_elsewhere).sum(2)[folds, log.context]
    residual = log.reward - fitted_elsewhere[folds, log.context, log.action]
    return np.array(
        [
            weighted.mean(),
            clipped.mean(),
            weighted.sum() / max(weight.sum(), 1e-300),
            (table * fitted).sum(1)[log.context].mean(),
            (expected + weight * residual).mean(),
        ]
    )


def _mean_rewards(rewards: np.ndarray, rounds: np.ndarray) -> np.ndarray:
    """Mean rewards, drawn to the mean of all by one unit of reward's worth of rounds."""
    total = rewards.sum()
    if total <= 0:
        return np.zeros(rewards.shape)
    return (rewards + 1) / (rounds + rounds.sum() / total)


def _aligned(log: BanditLog, policy: Policy) -> tuple[BanditLog, np.ndarray]:
    """The log over the actions of both, and the policy as float64[contexts, actions] for it."""
    lacking = [name for name in log.contexts if name not in policy.contexts]
    if lacking:
        raise RecsysError(
            f"the policy says nothing of position {lacking[0]}, which is in the log; "
            f"it has {', '.join(policy.contexts)}"
        )
    known = set(log.actions)
    actions = log.actions + [name for name in policy.actions if name not in known]
    place = {name: number for number, name in enumerate(actions)}
    rows = [policy.contexts.index(name) for name in log.contexts]
    table = np.zeros((len(rows), len(actions)))
    table[:, [place[name] for name in policy.actions]] = policy.probability[rows]
    return replace(log, actions=actions), table


def _sums(log: BanditLog, values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Sum of `values` over the rounds of each context and action."""
    cell = log.context * shape[1] + log.action
    return np.bincount(cell, values, minlength=shape[0] * shape[1]).reshape(shape)



def _indices(column: pl.Series) -> tuple[list[str], np.ndarray]:
    """The values of a column as names, in order, and int64[rows] of which each row has."""
    values, index = np.unique(column.to_numpy(), return_inverse=True)
    return [str(value) for value in values], index
