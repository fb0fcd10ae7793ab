from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from federation.errors import FederationError
from federation.settings import RunSettings, build_bundle


def test_a_run_configuration_carries_all_settings() -> None:
    settings = RunSettings(
        folder=Path("/runs/7"),
        sites=("north", "south"),
        rounds=9,
        local_epochs=3,
        strategy="fedprox",
        proximal_mu=0.01,
        by_row=True,
        keep_moments=False,
        personal="*norm*,position_embedding.*",
        final_rate=0.25,
        selection="utility",
        fraction=0.5,
        answer_within=30.0,
        keep_updates=True,
        seed=4,
        round_timeout=60.0,
        quorum=0.75,
        ask_again=30.0,
        at_once=5,
        reply_limit=1000,
    )
    assert RunSettings.from_config(settings.to_config()) == settings


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"sites": ()}, "sites is (): name at least one site."),
        ({"rounds": 0}, "rounds is 0: use 1 or more."),
        ({"local_epochs": -1}, "local_epochs is -1: use 1 or more."),
        (
            {"strategy": "fedsgd"},
            "strategy is 'fedsgd': use one of fedavg, fedprox, fedavgm, fedadam, fedyogi, scaffold, "
            "krum, multi-krum, trimmed-mean, fedbuff.",
        ),
        ({"strategy": "fedprox"}, "proximal_mu is 0.0: fedprox needs one above 0."),
        ({"at_once": -1}, "at_once is -1: use a number of sites, or 0 for all."),
        ({"proximal_mu": 0.1}, "proximal_mu is 0.1: only fedprox uses it."),
        (
            {"strategy": "fedavgm", "server_momentum": 1.0}, "server_momentum is 1.0: use one below 1."
        ),
        ({"strategy": "fedadam"}, "server_rate is 0.0: fedadam needs one above 0."),
        ({"strategy": "krum"}, "wrong_sites is 0: krum needs one above 0."),
        (
            {"strategy": "krum", "wrong_sites": 1, "by_row": True},
            "by_row is True: only fedavg, fedprox, fedavgm, fedadam, fedyogi use it.",
        ),
        ({"strategy": "fedbuff"}, "buffer is 0: fedbuff needs one above 0."),
        ({"buffer": 2}, "buffer is 2: only fedbuff uses it."),
        (
            {"strategy": "fedbuff", "buffer": 2},
            "buffer is 2: 1 sites, each once a version, would never fill it.",
        ),
        (
            {"strategy": "fedbuff", "buffer": 1, "fraction": 0.5},
            "fraction is 0.5: fedbuff hands its model to every site that is idle; use 1.",
        ),
        (
            {"strategy": "fedbuff", "buffer": 1, "selection": "speed"},
            "selection is 'speed': fedbuff hands its model to every site that is idle; use share.",
        ),
        (
            {"strategy": "fedbuff", "buffer": 1, "secure": "masks"},
            "secure is 'masks': a secure sum is of sites that train one version, and fedbuff's train "
            "several.",
        ),
        ({"final_rate": 1.5}, "final_rate is 1.5: use one in [0, 1]."),
        ({"selection": "luck"}, "selection is 'luck': use one of share, size, utility, speed."),
        ({"answer_within": -1.0}, "answer_within is -1.0: use a number of seconds, or 0 for none."),
        ({"fraction": 1.5}, "fraction is 1.5: use a number in (0, 1]."),
        ({"round_timeout": 0.0}, "round_timeout is 0.0: use a number of seconds above 0."),
        ({"quorum": 0.0}, "quorum is 0.0: use a number in (0, 1]."),
        ({"ask_again": -1.0}, "ask_again is -1.0: use a number of seconds above 0."),
        ({"reply_limit": -1}, "reply_limit is -1: use 0 or more bytes."),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict, sentence: str) -> None:
    with pytest.raises(FederationError) as caught:
        RunSettings(**{"folder": Path("/runs/7"), "sites": ("north",)} | wrong)
    assert str(caught.value) == sentence


def test_the_bundle_is_always_the_same_and_brings_no_code() -> None:
    bundle = build_bundle()
    assert bundle == build_bundle()
    assert zipfile.ZipFile(io.BytesIO(bundle)).namelist() == ["pyproject.toml", ".info/CONTENT"]
