"""The configuration of a run: frozen models that refuse what they do not know."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.augmentation import Augmentation
from common.curriculum import Stage, check_stages
from common.data.schema import PlainName, Schema
from common.models.encoders.options import EncoderOptions
from common.objectives import TASK_ONLY, Part, check_parts, check_setting
from common.section import Section

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class SyntheticConfig(Section):
    """Made-up records whose truth is known (data=synthetic)."""

    sites: int = Field(4, ge=2, le=1000, description="Number of sites.")
    subjects: int = Field(80, ge=4, le=1_000_000, description="Subjects of each site.")
    kinds: tuple[Literal["image", "audio", "signal", "text", "tabular"], ...] = Field(
        ("image", "audio", "signal", "text", "tabular"), min_length=1, description="One modality of each kind."
    )
    noise: float = Field(0.5, ge=0, le=100, description="Std of each modality's own error, where severity has 1.")
    bias: float = Field(0.0, ge=0, le=100, description="Members of group b have 1 + bias times the noise.")


class DataConfig(Section):
    """Where the sites' records come from."""

    kind: Literal["heart", "heart_flamby", "watch", "digits", "xray_labs", "nafld", "synthetic", "folders"] = Field(
        description="folders reads your site folders; every other writes some, from a package, from the recordings in"
        " data.root (digits, xray_labs), or out of nothing (synthetic)."
    )
    root: str | None = Field(
        None, description="A directory: one site folder per site (folders), or the recordings (digits, xray_labs)."
    )
    normalisation: Literal["none", "site", "federated"] = Field(
        description="none: public bounds only; federated: all sites' statistics; site: its own. DP charges both."
    )
    split_seed: int = Field(0, ge=0, description="Seed of the per-subject split, where the folder has no split column.")
    held_out: tuple[str, ...] = Field(
        (), description="People whose recordings nobody trains on; the other sites test on them (watch, digits)."
    )
    modalities: tuple[str, ...] = Field((), description="Only these modalities of the folders; empty: all of them.")
    missing: float = Field(
        0.0, ge=0, lt=1, description="Chance to take a record's modality away where folders are written: simulated."
    )
    synthetic: SyntheticConfig = SyntheticConfig()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _simulated_where_written(self) -> DataConfig:
        if self.missing and self.kind == "folders":
            raise ValueError("data.missing takes nothing out of your own folders; objective.modality_dropout hides")
        if self.held_out and self.kind not in ("watch", "digits"):
            raise ValueError(f"data.held_out is for watch and digits, whose people have names; got data={self.kind}")
        if self.root is not None and self.kind not in ("folders", "digits", "xray_labs"):
            raise ValueError(f"data.root is not read by data={self.kind}; for your own folders: experiment=folders")
        return self


class ModelConfig(Section):
    """The model's kind and size."""

    kind: Literal["transformer", "additive"] = Field(
        description="transformer: encoders, one fusion transformer, heads; additive: a linear logit per modality."
    )
    width: int = Field(16, ge=2, le=4096, description="Width of every token.")
    layers: int = Field(1, ge=1, le=48, description="Layers of the fusion transformer.")
    heads: int = Field(2, ge=1, le=64, description="Attention heads; must divide width.")
    feedforward: int = Field(32, ge=2, description="Width of the feed-forward layer of a block.")
    encoders: dict[PlainName, EncoderOptions] = Field(
        {}, description="By modality, its encoder: docs/encoders.md has kinds and keys. Others get their default."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="What encoders and fusion multiply in; weights, losses, clipping and sums stay."
    )
    recompute: bool = Field(
        False, description="Compute encoders and fusion layers again on the way back, instead of keeping what they did."
    )
    frozen: tuple[str, ...] = Field(
        (), description="Encoder blocks (names, or `encoder` for all) that are not trained: they run once a record."
    )

    @model_validator(mode="after")
    def _heads_divide_width(self) -> ModelConfig:
        if self.width % self.heads:
            raise ValueError(f"model.heads must divide model.width, got {self.heads} and {self.width}")
        return self


class FusionConfig(Section):
    """Who may attend to whom in the fusion transformer."""

    kind: Literal["early", "late", "hybrid", "bottleneck", "perceiver", "cross"] = Field(description="Fusion policy.")
    hybrid_layers: int = Field(1, ge=0, description="Layers with own-modality attention before all meet (hybrid).")
    latents: int = Field(4, ge=1, le=512, description="Bottleneck or latent tokens (bottleneck, perceiver).")
    window_seconds: float | None = Field(
        None, gt=0, description="How far apart in time tokens of sounds and signals may read each other; default: any."
    )
    query: str | None = Field(None, description="The modality that reads the others (cross); default: the first.")


class ObjectiveConfig(Section):
    """What the sites minimise."""

    kind: Literal["classification"] = Field(description="A task's own loss, and the parts that are added to it.")
    task: str = Field("", description="Task of the site folders to learn; may be left out where they describe one.")
    parts: tuple[Part, ...] = Field(
        TASK_ONLY,
        min_length=1,
        description="Added up: task, anchor, masked_tokens, caption; without privacy infonce, siglip.",
    )
    auxiliary_weight: float = Field(0.3, ge=0, le=10, description="Weight of the per-modality auxiliary losses.")
    modality_dropout: float = Field(0.0, ge=0, lt=1, description="Chance to hide a present modality in training.")
    augment: Augmentation = Augmentation()  # type: ignore[call-arg]
    learning_rate: Positive = Field(description="Learning rate of the sites' SGD steps.")
    weight_decay: float = Field(0.0, ge=0, description="L2 pull towards zero in every local step.")
    batch_subjects: int = Field(64, ge=1, description="Expected subjects a step where privacy is off.")

    @model_validator(mode="after")
    def _consistent(self) -> ObjectiveConfig:
        check_parts(self.parts)
        return self


class PrivacyConfig(Section):
    """What each subject is promised, and how the budget is divided."""

    kind: Literal["subject", "distributed", "none"] = Field(
        description="subject: DP per subject at every site; distributed: the sites share the training noise out, which"
        " is less noise and holds only while few of them collude; none: no DP at all."
    )
    engine: Literal["bookkeeping", "opacus"] = Field(
        "bookkeeping", description="How per-subject gradients are computed; opacus: the reference, slower."
    )
    epsilon: Positive = Field(
        8.0, description="Budget of one run for the subject who pays most, all releases together."
    )
    delta: Share = Field(1e-3, lt=1, description="Delta of the same budget; must be below 1 / subjects of every site.")
    clip_norm: float = Field(1.0, ge=1e-6, le=1e6, description="L2 bound of one subject's joint gradient.")
    sampling_rate: float = Field(1.0, ge=1e-6, le=1, description="Poisson chance of a subject to be in a step.")
    steps_per_round: int = Field(1, ge=1, description="Noisy steps of a site in a round, fixed and public.")
    declared_subjects: int = Field(
        ge=1, description="Public size of a typical site; divides the noisy sums, never the site's true number."
    )
    normalisation_share: float = Field(
        0.1, gt=0, lt=1, description="Part of epsilon for federated normalisation statistics (training cohort)."
    )
    audit_share: float = Field(
        0.5, gt=0, lt=1, description="Part of epsilon for the audit (test cohort); rest: evaluation."
    )
    test_noise_seed: int | None = Field(
        None, description="Deterministic noise. Refused outside tests (FEDMOSAIC_TESTING=1): it protects nobody."
    )


class SecaggConfig(Section):
    """How updates are hidden from the server."""

    kind: Literal["masked", "none"] = Field(description="masked: secure aggregation; none: for comparisons only.")
    k_min: int = Field(3, ge=2, description="Smallest number of sites in any sum.")
    bound: Positive = Field(8.0, description="Largest magnitude of one encoded coordinate; larger ones are cut.")
    post_quantum: bool = Field(
        False, description="X25519 and ML-KEM-768 together, against those who record traffic now to open it later."
    )

    @model_validator(mode="after")
    def _masked_where_post_quantum(self) -> SecaggConfig:
        if self.post_quantum and self.kind == "none":
            raise ValueError("secagg.post_quantum=true protects masks, and secagg=none has none; use secagg=masked")
        return self


class ServerOptimizerConfig(Section):
    """The torch.optim optimizer on the averaged update."""

    kind: Literal["sgd", "adam", "adagrad"] = Field(description="sgd with lr 1 is FedAvg; adam is FedAdam.")
    lr: Positive = Field(1.0, description="Server learning rate.")
    momentum: float = Field(0.0, ge=0, lt=1, description="Momentum (sgd) or first-moment decay (adam, when above 0).")


class FederationConfig(Section):
    """How sites' contributions become one model."""

    aggregator: Literal["mean", "median"] = Field(
        "mean", description="mean by block, secure; median needs single updates, so only with secagg=none."
    )
    server_optimizer: ServerOptimizerConfig
    average_last: float = Field(
        0.0, ge=0, le=1, description="Part of the last rounds whose released models are averaged into the final one."
    )
    timeout_seconds: Positive = Field(600.0, description="Longest wait for the sites' replies to one stage.")
    proximal: float = Field(0.0, ge=0, description="FedProx mu in the sites' steps; 0 is FedAvg.")
    personal: tuple[str, ...] = Field((), description="Blocks (names or prefixes) that stay at the site.")


class SiteConfig(Section):
    """Simulated institutions."""

    state: str | None = Field(
        None, description="Where simulated sites keep ledgers, keys, caches; default: the run folder."
    )
    lifetime_epsilon: Positive = Field(
        20.0, description="Lifetime budget that `simulate` writes into a new simulated site's policy."
    )


class EngineConfig(Section):
    """How the apps are run."""

    kind: Literal["inprocess", "flower"] = Field(
        description="inprocess: our Grid; flower: Flower's simulation runtime."
    )
    workers: int = Field(0, ge=0, le=64, description="Worker processes (inprocess); 0 runs the sites in this process.")
    processes_per_site: int = Field(1, ge=1, le=64, description="Processes that share a simulated site's steps out.")


class AuditConfig(Section):
    """What the closing audit looks at."""

    attributes: tuple[str, ...] = Field((), description="Attributes of the site folders to audit by.")
    threshold: float = Field(0.5, gt=0, lt=1, description="Score from which a subject counts as positive.")
    min_cell: int = Field(11, ge=2, description="Groups with fewer subjects are suppressed.")
    score_bins: int = Field(10, ge=2, le=100, description="Bins of the score histograms.")
    base_rate: float = Field(0.5, ge=1e-6, lt=1, description="Public share with the outcome: bins are finest there.")


class Config(Section):
    """One run, fully resolved."""

    experiment: str = Field(
        pattern=r"^[a-z0-9_]+$", description="Name of the experiment; also the run folder's parent."
    )
    seed: int = Field(0, ge=0, description="Seed of everything but privacy noise.")
    rounds: int = Field(ge=1, le=100_000, description="Training rounds; null: as many as the stages have together.")
    stages: tuple[Stage, ...] = Field(
        (), description="Curriculum: what is trained on what, in turn (docs/curriculum.md)."
    )
    data: DataConfig
    model: ModelConfig
    fusion: FusionConfig
    objective: ObjectiveConfig
    privacy: PrivacyConfig
    secagg: SecaggConfig
    federation: FederationConfig
    audit: AuditConfig = AuditConfig()  # type: ignore[call-arg]
    site: SiteConfig = SiteConfig()  # type: ignore[call-arg]
    engine: EngineConfig
    drop: tuple[Annotated[str, Field(pattern=r"^[\w.-]+@\d+$")], ...] = Field(
        (), description="Scenario: sites that fail in a round, as site@round."
    )
    honesty: str = Field("", description="Which parts of the data are real, paired, split or simulated; printed.")
    data_schema: Schema | None = Field(
        None, description="Public schema of the federation; filled in from the site folders."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.secagg.kind == "masked" and self.federation.aggregator == "median":
            raise ValueError(
                "federation.aggregator=median needs single updates, which secagg=masked hides; use mean, or secagg=none"
            )
        if self.data.kind == "folders" and self.data.root is None:
            raise ValueError("data=folders needs data.root=DIR, the directory that holds one folder per site")
        for key, asked in (("frozen", self.model.frozen), ("encoders", self.model.encoders)):
            if asked and self.model.kind != "transformer":
                raise ValueError(f"model.{key} needs model=transformer, which has encoders, got {self.model.kind}")
        if (self.model.precision == "bfloat16" or self.model.recompute) and self.privacy.engine == "opacus":
            raise ValueError("model.precision=bfloat16 and model.recompute need privacy.engine=bookkeeping")
        check_stages(self.stages, self.rounds, self.objective.parts)
        check_setting(self.objective.parts, self.privacy.kind, self.model.kind, self.model.frozen, self.rounds)
        if self.privacy.kind == "distributed":
            self._check_distributed()
        return self

    def _check_distributed(self) -> None:
        """Noise that the sites share out protects nothing outside the secure sum: not what leaves, not what stays."""
        said = (
            ("secagg.kind", self.secagg.kind, "masked", "a single site's noise is only a share of what is promised"),
            ("privacy.sampling_rate", self.privacy.sampling_rate, 1.0, "sampling is not accounted for discrete noise"),
            ("privacy.steps_per_round", self.privacy.steps_per_round, 1, "every step needs a secure sum of its own"),
            ("federation.personal", self.federation.personal, (), "blocks that stay at a site would not be noised"),
        )
        for key, value, needed, why in said:
            if value != needed:
                raise ValueError(f"privacy=distributed needs {key}={needed}, because {why}; got {value}")

    def hash(self) -> str:
        """Name this configuration: SHA-256 of its canonical JSON, in hex."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()
