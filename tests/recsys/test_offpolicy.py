from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import RecsysError
from recsys.offpolicy import (
    ESTIMATORS,
    BanditLog,
    Policy,
    evaluate_policy,
    load_log,
    load_policy,
    logging_policy,
    observed_rate,
    uniform_policy,
)

OPEN_BANDIT = Path(__file__).resolve().parents[2] / "../shared/data/open_bandit"
CONTEXTS, ACTIONS = ["1", "2", "3"], ["a", "b", "c", "d", "e"]


class Bandit:
    """A known world: rates of clicks, a logging policy, a new one, and the new one's true rate."""

    def __init__(self) -> None:
        generator = np.random.default_rng(7)
        shape = len(CONTEXTS), len(ACTIONS)
        self.rates = generator.uniform(0.2, 0.7, size=shape)
        self.logging = generator.dirichlet(np.full(shape[1], 1.0), size=shape[0])
        self.new = generator.dirichlet(np.full(shape[1], 0.7), size=shape[0])
        self.share = np.array([0.5, 0.3, 0.2])
        self.truth = float(self.share @ (self.new * self.rates).sum(1))
        self.policy = Policy(CONTEXTS, ACTIONS, self.new)

    def log(self, rounds: int, seed: int) -> BanditLog:
        generator = np.random.default_rng(seed)
        context = generator.choice(len(CONTEXTS), size=rounds, p=self.share)
        drawn = generator.random(rounds)[:, None]
        action = (drawn > self.logging.cumsum(1)[context]).sum(1).clip(max=len(ACTIONS) - 1)
        reward = (generator.random(rounds) < self.rates[context, action]).astype(float)
        return BanditLog(
            CONTEXTS, ACTIONS, context, action, reward, self.logging[context, action]
        )


@pytest.fixture(scope="module")
def bandit() -> Bandit:
    return Bandit()


def values_over_logs(bandit: Bandit, *, logs: int, rounds: int) -> dict[str, np.ndarray]:
    values = []
    for seed in range(logs):
        result = evaluate_policy(bandit.log(rounds, seed), bandit.policy, resamples=2, seed=seed)
        values.append([estimate.value for estimate in result.estimates])
    return dict(zip(ESTIMATORS, np.array(values).T, strict=True))


@pytest.fixture(scope="module")
def repeated(bandit) -> dict[str, np.ndarray]:
    """Values of each estimator over 600 logs of 200 rounds."""
    return values_over_logs(bandit, logs=600, rounds=200)


@pytest.mark.parametrize("estimator", ["IPS", "doubly robust"])
def test_they_are_without_bias(bandit, repeated, estimator) -> None:
    values = repeated[estimator]
    error = values.std(ddof=1) / np.sqrt(len(values))
    assert abs(values.mean() - bandit.truth) < 3 * error
    assert error < 0.005


def test_a_round_does_not_tell_the_model_its_own_answer(bandit) -> None:
    # With few rounds to a cell, a model fitted to the same rounds would bias doubly robust.
    values = values_over_logs(bandit, logs=2000, rounds=40)["doubly robust"]
    assert abs(values.mean() - bandit.truth) < 2.5 * values.std(ddof=1) / np.sqrt(len(values))


def test_the_rate_of_the_log_itself_is_far_off(bandit) -> None:
    assert abs(observed_rate(bandit.log(100_000, 0)).value - bandit.truth) > 0.03


def test_normalising_and_a_model_lower_the_variance(repeated) -> None:
    assert repeated["SNIPS"].std() < 0.9 * repeated["IPS"].std()
    assert repeated["doubly robust"].std() < 0.9 * repeated["IPS"].std()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_bootstrap_gives_the_spread_over_logs(bandit, repeated, estimator) -> None:
    errors = []
    for seed in range(12):
        result = evaluate_policy(bandit.log(200, seed), bandit.policy, resamples=60, seed=seed)
        errors.append(result.estimates[ESTIMATORS.index(estimator)].standard_error)
    assert np.mean(errors) == pytest.approx(repeated[estimator].std(ddof=1), rel=0.2)


def test_all_agree_with_the_truth_on_a_long_log(bandit) -> None:
    result = evaluate_policy(bandit.log(100_000, 1), bandit.policy, resamples=20)
    for estimate in result.estimates:
        assert estimate.value == pytest.approx(bandit.truth, abs=5 * estimate.standard_error)
        assert estimate.low < estimate.value < estimate.high
    assert result.rounds == 100_000 and 0 < result.effective_rounds < 100_000
    assert result.unsupported == 0


def test_of_its_own_log_a_policy_has_the_observed_rate(bandit) -> None:
    log = bandit.log(500, 2)
    same = Policy(CONTEXTS, ACTIONS, bandit.logging)
    result = evaluate_policy(log, same, resamples=50)
    rates = {estimate.estimator: estimate.value for estimate in result.estimates}
    observed = observed_rate(log)
    assert rates["IPS"] == rates["SNIPS"] == pytest.approx(observed.value)
    assert result.effective_rounds == pytest.approx(500) and result.largest_weight == 1
    assert observed.low < observed.value < observed.high


def test_a_heavy_weight_is_clipped() -> None:
    log = BanditLog(["1"], ["a", "b"], np.zeros(16, int), np.array([0] * 15 + [1]),
                    np.array([0.0] * 15 + [1.0]), np.array([0.99] * 15 + [0.01]))
    result = evaluate_policy(log, Policy(["1"], ["a", "b"], np.array([[0.0, 1.0]])), resamples=2)
    rates = {estimate.estimator: estimate.value for estimate in result.estimates}
    assert rates["IPS"] == pytest.approx(100 / 16)
    assert rates["clipped IPS"] == pytest.approx(4 / 16)
    assert rates["SNIPS"] == pytest.approx(1)


def test_what_the_log_never_shows_is_counted(bandit) -> None:
    log = bandit.log(20_000, 3)
    log = log.take(log.action != 1)
    new = Policy(CONTEXTS, ["b", "z"], np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]))
    result = evaluate_policy(log, new, resamples=5)
    assert result.unsupported == pytest.approx(1)
    assert result.effective_rounds == 0
    assert evaluate_policy(log, uniform_policy(log), resamples=5).unsupported == pytest.approx(0.2)


def test_the_same_seed_gives_the_same_figures(bandit) -> None:
    log = bandit.log(200, 4)
    first, again, other = (
        evaluate_policy(log, bandit.policy, resamples=20, seed=seed) for seed in (5, 5, 6)
    )
    assert first == again != other


def test_a_learning_policy_is_averaged_over_its_time() -> None:
    generator = np.random.default_rng(0)
    rounds = 40_000
    # It turns from item b to item c, each of which is logged most while it is likely; a stays.
    likely_b = np.linspace(0.65, 0.01, rounds)
    probability = np.stack([np.full(rounds, 0.34), likely_b, 0.66 - likely_b], axis=1)
    action = (generator.random(rounds)[:, None] > probability.cumsum(1)).sum(1).clip(max=2)
    propensity = probability[np.arange(rounds), action]
    log = BanditLog(
        ["1"], ["a", "b", "c"], np.zeros(rounds, int), action, np.zeros(rounds), propensity
    )
    assert logging_policy(log).probability[0] == pytest.approx([0.34, 0.33, 0.33], abs=0.01)
    assert propensity[action == 1].mean() > 0.4


def test_files_are_read(tmp_path) -> None:
    log_file, policy_file = tmp_path / "log.csv", tmp_path / "policy.csv"
    log_file.write_text(
        "time,item_id,position,click,propensity_score\n"
        "1,007,10,0,0.5\n2,12,2,1,0.25\n3,007,2,0,0.75\n"
    )
    policy_file.write_text("item_id,position,probability\n007,10,1\n007,2,0.25\n12,2,0.75\n")
    log, policy = load_log(log_file), load_policy(policy_file)
    assert log.contexts == policy.contexts == ["2", "10"] and log.actions == ["007", "12"]
    assert log.context.tolist() == [1, 0, 0] and log.action.tolist() == [0, 1, 0]
    assert log.reward.tolist() == [0, 1, 0] and log.propensity.tolist() == [0.5, 0.25, 0.75]
    assert policy.probability.tolist() == [[0.25, 0.75], [1, 0]]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("a,1,0.5\nb,1,0.4\n", "the probabilities of position 1 sum to 0.9"),
        ("a,1,0.5\na,1,0.5\n", "item 'a' at position 1 comes twice"),
        ("a,1,1.5\n", "line 2: probability is '1.5', it must be a number from 0 to 1"),
    ],
)
def test_a_bad_policy_is_named(tmp_path, rows, sentence) -> None:
    file = tmp_path / "policy.csv"
    file.write_text("item_id,position,probability\n" + rows)
    with pytest.raises(RecsysError, match=sentence) as error:
        load_policy(file)
    assert str(file) in str(error.value)


def test_a_policy_must_know_the_positions_of_the_log(bandit) -> None:
    part = Policy(CONTEXTS[:2], ACTIONS, bandit.new[:2])
    with pytest.raises(RecsysError, match="says nothing of position 3"):
        evaluate_policy(bandit.log(50, 0), part)


def test_a_log_that_is_too_short_is_said(bandit) -> None:
    with pytest.raises(RecsysError, match="the log has 4 rounds; an estimate needs 5"):
        evaluate_policy(bandit.log(4, 0), bandit.policy)


@pytest.mark.skipif(not OPEN_BANDIT.exists(), reason="no shared data: open_bandit is not there")
@pytest.mark.parametrize("campaign", ["men", "women"])
def test_the_random_log_foretells_thompson_samplings_clicks(campaign) -> None:
    random = load_log(OPEN_BANDIT / f"random_{campaign}.csv.gz")
    bts = load_log(OPEN_BANDIT / f"bts_{campaign}.csv.gz")
    observed = observed_rate(bts)
    result = evaluate_policy(random, logging_policy(bts), resamples=200)
    for estimate in result.estimates:
        error = np.hypot(estimate.standard_error, observed.standard_error)
        assert abs(estimate.value - observed.value) < 2 * error
