"""Other patients are no drift where the log says who they are; a device that changes at the same time is still found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from components.core.inference_log import InferenceLog
from components.core.package import ModelPackage
from components.monitor import case_mix
from components.monitor.case_mix import AGE, NOT_GIVEN, SEX, SITE, UNHEARD, CaseMix
from components.monitor.sketch import BINS
from components.monitor.state import opened
from components.monitor.watched import Watched
from tests.monitor.test_watch import MOVED, NAMES, SAME, answers, history, run, table, told
from tests.serving.small_package import build, lung_nodule


def people(rng: np.random.Generator, n: int, *, women: float = 0.5) -> pd.DataFrame:
    return pd.DataFrame({
        AGE: np.floor(rng.uniform(30, 80, n)), SEX: np.where(rng.random(n) < women, "F", "M"), SITE: rng.choice(["back", "face", "foot", "ear"], n)
    })  # fmt: skip


def learned(n: int = 800) -> tuple[CaseMix, pd.DataFrame]:
    """Women are 1.5 standard deviations brighter, the old noisier; the place on the body changes nothing."""
    rng = np.random.default_rng(0)
    who = people(rng, n)
    level = rng.normal(size=n) + 1.5 * (who[SEX] == "F")
    noise = rng.normal(size=n) + 1.2 * (who[AGE] >= 60)
    return CaseMix.learn(who, {"mean": np.asarray(level), "noise_sd": np.asarray(noise)}, ["d"] * n, [str(k) for k in range(n)]), who


def test_covariates_that_move_a_feature_make_strata_and_others_none() -> None:
    mix, who = learned()
    assert mix.names[:2] == (NOT_GIVEN, UNHEARD)
    assert sorted(mix.names[2:]) == sorted(f"{sex} {age}" for sex in ("women", "men") for age in ("under 60 years", "of 60 years and over"))
    counts = np.bincount(mix.strata(who), minlength=len(mix.names))
    assert counts[:2].tolist() == [0, 0]
    assert counts[2:].min() >= case_mix.LEAST
    young_women = who.index[(who[SEX] == "F") & (who[AGE] < 60)]
    assert {mix.names[k] for k in mix.strata(who.loc[young_women])} == {"women under 60 years"}


def test_strata_of_chance_are_none() -> None:
    """Covariates that nothing depends on: over 20 draws, no strata."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        features = {f"f{k}": rng.normal(size=300) for k in range(10)}
        assert not CaseMix.learn(people(rng, 300), features, ["a", "b"] * 150, list(range(300))).known  # pyright: ignore[reportArgumentType]


def test_what_is_not_given_and_what_the_reference_does_not_have_are_told_apart() -> None:
    mix, _ = learned()
    odd = pd.DataFrame({AGE: [np.nan, 3.0, 50.0, 82.0], SEX: ["F", "F", None, "F"], SITE: ["back"] * 4})
    assert [mix.names[k] for k in mix.strata(odd)] == [NOT_GIVEN, UNHEARD, NOT_GIVEN, "women of 60 years and over"]
    assert [mix.names[k] for k in mix.strata(pd.DataFrame({SEX: ["O"], AGE: [50.0]}))] == [UNHEARD]
    assert set(mix.strata(pd.DataFrame({"mean": [1.0, 2.0]}))) == {0}


def test_strata_are_plain_data() -> None:
    mix, who = learned()
    again = CaseMix.from_dict(json.loads(json.dumps(mix.to_dict())))
    assert again.names == mix.names
    assert (again.strata(who) == mix.strata(who)).all()


# ---- the whole monitor -----------------------------------------------------------------------------------------------------------------

BRIGHTER = 60.0


def with_people(made: Any, seed: int, women: float) -> Any:
    """Women's images are brighter on every device."""
    rng = np.random.default_rng(seed)
    groups = made["group_id"].unique()
    sex = dict(zip(groups, np.where(rng.random(len(groups)) < women, "F", "M"), strict=True))
    made[SEX] = made["group_id"].map(sex)
    for name in ("mean", "p01", "p50", "p99"):
        made[name] += BRIGHTER * (made[SEX] == "F")
    return made


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    return build(tmp_path_factory.mktemp("package") / "p", lung_nodule(), with_people(table(NAMES, 0, 120), 5, 0.3), synthetic=True)


def seen(package: ModelPackage, key: str, day: int, women: float, *, said: bool = True, **moved: float) -> Iterator[dict[str, Any]]:
    """A day of one device, with another share of women."""
    rng = np.random.default_rng([day, ord(key[0])])
    for record in answers(package, key, day, 60, kernel=None, software="VA1", **moved):
        sex = "F" if rng.random() < women else "M"
        image = {name: value + (BRIGHTER * (sex == "F") if name in ("mean", "p01", "p50", "p99") else 0) for name, value in record["image"].items()}
        yield record | {"image": image} | ({SEX: sex} if said else {})


def log_of(root: Path, days: list[list[dict[str, Any]]]) -> None:
    with InferenceLog(root / "log") as log:
        for rows in days:
            log.append(rows)


def test_more_women_are_no_alarm_and_are_told(package: ModelPackage, tmp_path: Path) -> None:
    log_of(tmp_path, [[*seen(package, SAME, day, 0.9)] for day in range(4)])
    assert "drift" not in {kind for kind, device in told(run(package, tmp_path, 4.5)) if device == SAME}
    rows = history(tmp_path).query("device_key == @SAME")
    assert set(rows["verdict"]) <= {"no drift found", "watch"}
    assert rows["words"].str.contains("the case mix changed: women in ").all()
    page = next((tmp_path / "state" / "lung-nodule" / "reports").glob("*.html")).read_text()
    assert "the case mix changed: women in " in page


def test_the_same_answers_of_a_server_that_tells_no_sex_are_an_alarm(package: ModelPackage, tmp_path: Path) -> None:
    """What the strata are for; and without covariates in the log all is as it was before there were strata."""
    log_of(tmp_path, [[*seen(package, SAME, day, 0.9, said=False)] for day in range(4)])
    assert ("drift", SAME) in told(run(package, tmp_path, 4.5))


def test_a_device_that_changes_while_its_patients_change_is_found(package: ModelPackage, tmp_path: Path) -> None:
    log_of(tmp_path, [[*seen(package, MOVED, day, 0.9, noise_sd=4.0)] for day in range(4)])
    said = told(run(package, tmp_path, 4.5))["drift", MOVED]
    assert said.startswith("noise +")
    assert "mean" not in said
    assert "the case mix changed: women in " in said


def test_patients_that_the_reference_does_not_have_are_left_out_and_told(package: ModelPackage, tmp_path: Path) -> None:
    days = [[r | ({SEX: "O"} if n % 3 == 0 else {}) for n, r in enumerate(seen(package, SAME, day, 0.3))] for day in range(2)]
    log_of(tmp_path, days)
    assert ("drift", SAME) not in told(run(package, tmp_path, 2.5))
    rows = history(tmp_path).query("device_key == @SAME")
    assert rows["words"].str.contains("33 % of the answers are of patients that its reference does not have").all()
    log_of(tmp_path, [[r | {SEX: "O"} for r in seen(package, SAME, day, 0.3)] for day in (2, 3)])
    run(package, tmp_path, 4.5)
    last = history(tmp_path).query("device_key == @SAME").iloc[-1]
    assert (last["verdict"], last["reason"]) == ("cannot judge", "its case mix is not in the reference")


def test_a_state_keeps_the_strata_that_it_was_begun_with(package: ModelPackage, tmp_path: Path) -> None:
    """A state from before there were strata goes on without them; today's keeps its own when others would be learned."""
    watched = Watched.of(package)
    assert watched.mix.known
    path = tmp_path / "state" / "lung-nodule" / f"{package.digest[:12]}.db"
    with opened(path, (1, len(watched.groups), BINS)) as old:
        old.put("window_s", 86_400)
    log_of(tmp_path, [[*seen(package, SAME, 0, 0.3)]])
    assert run(package, tmp_path, 1.5)["events"] == 60
    with opened(path, (len(watched.mix.names), len(watched.groups), BINS)) as state:
        found = state.sketch(next(iter(state.windows())), SAME)
        assert found is not None
        assert len(found[0].counts) == 1
        assert CaseMix.from_dict(state.get("case_mix", None)) == CaseMix()
    other = tmp_path / "other"
    log_of(other, [[*seen(package, SAME, 0, 0.3)]])
    run(package, other, 1.5)
    again = opened(other / "state" / "lung-nodule" / path.name, (17, len(watched.groups), BINS))
    with again as state:
        assert CaseMix.from_dict(state.get("case_mix", None)) == watched.mix
        found = state.sketch(next(iter(state.windows())), SAME)
        assert found is not None
        assert len(found[0].counts) == len(watched.mix.names)
