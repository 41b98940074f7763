"""When a stage counts as finished: the key of everything that its result depends on.

A key is made of the stage's settings and the keys of the stages that it reads from, so a change
reaches all that follows and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from selfilter_ray.config import Config
from selfilter_ray.errors import ConfigError
from selfilter_ray.features.shards import plan_shards, shard_keys
from selfilter_ray.run_folder import STAGES, RunFolder, stage_key
from selfilter_ray.samples.files import part_files
from selfilter_ray.samples.quarantine import count_reasons, read_quarantine
from selfilter_ray.storage.places import name_of
from selfilter_ray.storage.shared import begun
from selfilter_ray.strict import Strict
from selfilter_ray.wanted import Wanted

# Finished work of these stages is never thrown away unasked.
EXPENSIVE = ("featurize", "train")


class StageKeys:
    """The wanted key of every stage, against those of the manifest.

    Args:
        wanted: what the methods of this run need; stages that make none of it are left out.
    """

    def __init__(
        self, config: Config, inputs: Sequence[dict[str, Any]], folder: RunFolder, wanted: Wanted
    ) -> None:
        self.config, self.folder, self.wanted = config, folder, wanted
        self.settings = _settings(config)
        self._keys: dict[str, str] = {}
        files = [(name_of(item["path"]), item["sha256"]) for item in inputs]
        for stage in STAGES:
            before = [self._keys[name] for name in self._reads_from(stage)] or [stage_key(files)]
            self._keys[stage] = stage_key(*before, self.settings[stage])

    def __getitem__(self, stage: str) -> str:
        return self._keys[stage]

    def is_finished(self, stage: str) -> bool:
        """Whether the folder holds the stage's result for these inputs and settings."""
        record = self.folder.finished(stage)
        if record is None or record["key"] != self[stage]:
            return False
        if stage == "score" and not self._knows_enough(record):
            return False
        return all(path.exists() for path in self._outputs(stage, record))

    def require_before(self, stage: str) -> None:
        """A stage can only follow finished ones.

        Raises:
            ConfigError: naming the stage that is missing.
        """
        for earlier in self.needed(STAGES[: STAGES.index(stage)]):
            if not self.is_finished(earlier):
                command = {"read": "featurize", "rate": "score"}.get(earlier, earlier)
                raise ConfigError(
                    f"{stage} needs {earlier} to be finished in {self.folder} with these "
                    f"settings: run {command} first, or all of it with run."
                )

    def needed(self, stages: Sequence[str] = STAGES) -> list[str]:
        """Those of the stages that make something which this run's methods need."""
        left_out = set()
        if not self.wanted.ratings:
            left_out.add("rate")
        if not self.wanted.stage1:
            left_out.add("train")
        return [stage for stage in stages if stage not in left_out]

    def asked(self, stages: Sequence[str]) -> list[str]:
        """Those that are needed, and whatever leads to a stage that the user names."""
        if not stages or stages[-1] == "train" or len(stages) == 1:
            return list(stages)
        return self.needed(stages)

    def _read_the_same(self, stage: str, records: dict[str, Any]) -> bool:
        """Whether what the stage once read is what it would read now."""
        return all(
            records.get(name, {}).get("key") == self[name] for name in self._reads_from(stage)
        )

    def _all_before(self, stage: str) -> set[str]:
        direct = self._reads_from(stage)
        return set(direct).union(*(self._all_before(name) for name in direct))

    def _knows_enough(self, record: dict[str, Any]) -> bool:
        """Whether ``scores.parquet`` has all that is wanted now."""
        wanted = self.wanted
        same_seeds = wanted.seed_set is None or list(wanted.seed_set) == record.get("seed_set")
        return same_seeds and set(wanted.columns) <= set(record["columns"])

    def _reads_from(self, stage: str) -> tuple[str, ...]:
        train = ("featurize",) if self.config.train.inputs == "clip" else ("rate",)
        return {
            "read": (),
            "featurize": ("read",),
            "rate": ("featurize",),
            "train": train,
            "score": ("rate", "train"),
            "select": ("score",),
            "report": ("select",),
        }[stage]

    def refuse_loss(self, stages: Sequence[str], redo: bool) -> None:
        """Stop before finished features or training of other settings would be overwritten.

        Raises:
            ConfigError: with the settings that differ.
        """
        for stage in EXPENSIVE:
            record = self.folder.finished(stage)
            if redo or stage not in stages:
                continue
            if record is not None and record["key"] != self[stage]:
                raise ConfigError(
                    f"{self.folder} holds a finished {stage} of other settings "
                    f"({self._differences(stage)}). Give another run_dir, or --redo to "
                    "overwrite it."
                )
            if record is None and self._begun_otherwise(stage):
                raise ConfigError(
                    f"{self.folder} holds an unfinished {stage} of other settings. Take those "
                    "settings again to go on, give another run_dir, or --redo to start over."
                )

    def begin(self, stage: str) -> None:
        """Its outputs are about to change: until it ends, the stage is not finished."""
        manifest = self.folder.manifest()
        if manifest["stages"].pop(stage, None) is not None:
            self.folder.save_manifest(manifest)

    def finish(self, stage: str, record: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Put the stage's record into the manifest; what was made from other inputs leaves it."""
        manifest = self.folder.manifest() | provenance
        needed = self.needed()
        before = manifest["stages"]
        kept = {
            name: old
            for name, old in before.items()
            if old["key"] == self[name]
            or (name not in needed and self._read_the_same(name, before))
        }
        if stage == "rate":  # a judge may answer now what it did not answer before
            kept = {name: old for name, old in kept.items() if stage not in self._all_before(name)}
        kept[stage] = {"key": self[stage], "settings": self.settings[stage], **record}
        manifest["stages"] = {name: kept[name] for name in STAGES if name in kept}
        manifest["config"] = self.config.model_dump(mode="json")
        manifest["counts"] = _counts(self.folder, manifest["stages"])
        manifest["models"] = {
            name: model
            for old in manifest["stages"].values()
            for name, model in old["models"].items()
        }
        if not _holds(manifest.get("tuned"), manifest["stages"]):
            manifest.pop("tuned", None)
        self.folder.save_manifest(manifest)

    def _begun_otherwise(self, stage: str) -> bool:
        """Whether the stage was interrupted under another key."""
        if stage == "featurize":
            return any(key != self[stage] for key in shard_keys(self.folder.features))
        return any(key != self[stage] for key in begun(self.folder.checkpoints))

    def _outputs(self, stage: str, record: dict[str, Any]) -> list[Path]:
        folder = self.folder
        if stage == "read":
            return [*part_files(folder.samples, record["out"]), folder.read_quarantine]
        if stage == "featurize":
            shards = plan_shards(record["rows"], self.config.featurize.shard_rows)
            return [
                folder.quarantine,
                *(name(folder.features) for s in shards for name in (s.file, s.record_file)),
            ]
        return {
            "rate": [folder.ratings],
            "train": [folder.score_net, folder.sample_statistics],
            "score": [folder.scores],
            "select": [folder.selection, folder.selected_json, folder.selected_ids],
            "report": [folder.report],
        }[stage]

    def _differences(self, stage: str) -> str:
        changed = []
        for earlier in STAGES[: STAGES.index(stage) + 1]:
            record = self.folder.finished(earlier) or {}
            old, new = _flat(record.get("settings", {})), _flat(self.settings[earlier])
            changed += [
                f"{name}: {old.get(name)} -> {new.get(name)}"
                for name in sorted(old.keys() | new.keys())
                if old.get(name) != new.get(name)
            ]
        return ", ".join(dict.fromkeys(changed)) or "the input files have changed"


def _settings(config: Config) -> dict[str, Any]:
    """What each stage's result depends on, beside the stage before it."""
    seed = config.seed
    data = config.data.result_fields()
    return {
        "read": {"data": data, "seed": seed if config.data.limit else None},
        "featurize": {"featurize": config.featurize.result_fields()},
        "rate": {
            "image_reward": _fields(config.ratings.image_reward),
            "judges": [judge.result_fields() for judge in config.ratings.judges],
        },
        "train": _stage1_settings(config),
        "score": {
            "measure": config.measure.result_fields(),
            "seed_model": config.seed_model.result_fields(),
            "coido_model": config.coido_model.result_fields(),
        },
        "select": {"select": config.select.result_fields(), "seed": seed},
        "report": {"report": config.report.result_fields()},
    }


def _stage1_settings(config: Config) -> dict[str, Any]:
    """Stored losses depend on the settings of their pass, as far as those reach the loss."""
    settings = {"train": config.train.result_fields(), "seed": config.seed}
    if config.train.losses == "stored":
        measure = config.measure.result_fields()
        reaching = ("batch_size", "chunk_tokens", "shard_rows", "bf16")
        settings["measure"] = {name: measure[name] for name in reaching}
    return settings


def _fields(section: Strict | None) -> dict[str, Any] | None:
    return None if section is None else section.result_fields()


def _counts(folder: RunFolder, stages: dict[str, Any]) -> dict[str, Any]:
    """Rows in, out and quarantined by reason, over read and featurize."""
    counts = dict(stages["read"]["counts"])
    if "featurize" in stages:
        counts["out"] = stages["featurize"]["out"]
        counts["quarantined"] = count_reasons(read_quarantine(folder.quarantine))
    return counts


def _holds(tuned: dict[str, Any] | None, stages: dict[str, Any]) -> bool:
    """Whether the tuned model was tuned on what the folder's stages chose."""
    made_from = {} if tuned is None else tuned["made_from"]
    return all(stages.get(name, {}).get("key") == key for name, key in made_from.items())


def _flat(tree: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(tree, tuple):  # a list once it comes back from the manifest
        tree = list(tree)
    if not isinstance(tree, dict):
        return {prefix.rstrip("."): str(tree)}
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat
