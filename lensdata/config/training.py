"""Configuration of training, scoring and of importing a user's own stamps (R-T1 to R-T5, R-P, R-M2, R-C3)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lensdata.config.base import UNHASHED, Config
from lensdata.config.cutouts import Quality

Normalisation = Literal["raw_robust", "per_sample_robust", "residual", "lanusse", "asinh", "rgb8", "identity"]


class AffineConfig(Config):
    """Ranges of the view `affine`."""

    rotate_degrees: float = Field(default=90.0, ge=0, le=180, description="turned by up to this, either way")
    zoom: tuple[float, float] = Field(default=(0.9, 1.0), description="magnified by a factor between these")
    shift_pixels: float = Field(default=0.0, ge=0, description="moved by up to this along either axis")

    @model_validator(mode="after")
    def _zoom_is_a_range(self) -> AffineConfig:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"images.affine.zoom {list(self.zoom)} is no range of positive factors, lowest first")
        return self


class MaskStageConfig(Config):
    """A disc about the centre that is hidden in some stamps, from an epoch on (R-P5)."""

    from_epoch: int = Field(default=0, ge=0, description="first epoch of the stage, counted from 0")
    radius: float = Field(gt=0, description="pixels")
    probability: float = Field(ge=0, le=1, description="fraction of the stamps, chosen anew in every epoch")


class ImagesConfig(Config):
    """From stored stamp to network input (R-P)."""

    normalisation: Normalisation = Field(
        default="raw_robust",
        description="raw_robust (R-P1), per_sample_robust (R-P2), residual (R-P3), lanusse, asinh, rgb8 (0..255 to -1..1), "
        "identity",
    )
    crop: int | None = Field(default=None, ge=8, description="side of the centre crop in pixels; null keeps all (R-P4)")
    bands: tuple[str, ...] | None = Field(default=None, description="planes of the stamps to use; null uses all (R-P6)")
    dtype: Literal["float32", "float16"] = Field(
        default="float32",
        description="of prepared stamps while they wait; float16 takes half the memory, rounds to 2^-11",
    )
    augment: Literal["d4", "original", "affine", "none"] = Field(
        default="d4",
        description="d4: flips and quarter turns, new in every epoch; original: the same view every epoch; affine: flips, "
        "then any angle, zoom and shift (R-P7)",
    )
    affine: AffineConfig = AffineConfig()
    masking: tuple[MaskStageConfig, ...] = Field(
        default=(), description="stages of core masking in training, each from its epoch on; empty: none (R-P5)"
    )

    @model_validator(mode="after")
    def _nothing_is_named_twice(self) -> ImagesConfig:
        if self.bands is not None and len(set(self.bands)) < len(self.bands):
            raise ValueError(f"images.bands names a band twice: {', '.join(self.bands)}")
        starts = [stage.from_epoch for stage in self.masking]
        if len(set(starts)) < len(starts):
            raise ValueError(f"two stages of images.masking begin at one epoch: from_epoch is {starts}")
        return self


class DataConfig(Config):
    """Which rows are used and in which order (R-T8)."""

    shuffle_rows: int = Field(default=4096, ge=1, description="rows of the window in which row groups are mixed")
    held_out_fold: int | None = Field(
        default=None,
        ge=0,
        description="fold that becomes test; the next one validates, the rest trains (R-N2)",
    )
    hold_out_test: bool = Field(
        default=False,
        description="held_out_fold: the test split stays test, too, whatever its fold: for cleaning, which must not learn from it "
        "(R-T10)",
    )
    negatives: Literal["all", "bootstrap"] = Field(
        default="all",
        description="bootstrap: the 63% of the training negatives that a bootstrap sample holds, drawn by the seed: for members "
        "of an ensemble that differ",
    )
    split: Literal["manifest", "random"] = Field(
        default="manifest",
        description="random: rows of train and val dealt out anew, whatever their place on the sky; an ablation of leakage",
    )


class ModelConfig(Config):
    """The network (R-M1, R-M2)."""

    arch: str = Field(
        default="resnet18",
        description="resnet18, efficientnet_v2_s, shielded_resnet, or timm:NAME (extra lensdata[timm])",
    )
    preset: str = Field(default="p4", description="shielded_resnet only: p4, p4_c (194,433 parameters each), l18, h21")
    dropout: float = Field(default=0.2, ge=0, lt=1, description="efficientnet_v2_s only: before the last layer")
    weights: str | None = Field(
        default=None,
        description="state_dict or .safetensors file (path or URI) to start from; torchvision: its own ImageNet weights; "
        "hub:OWNER/NAME[@REVISION]: from the Hugging Face Hub; null: random",
    )
    weights_sha256: str | None = Field(default=None, description="SHA-256 that the weights file must have")
    frozen_stem_epochs: int = Field(default=0, ge=0, description="epochs in which the first layer is kept fixed")
    averaging: float = Field(
        default=0.0, ge=0, lt=1, description="decay per step of the running mean of the weights that is judged; 0: none"
    )

    @model_validator(mode="after")
    def _hash_is_of_a_file(self) -> ModelConfig:
        if self.weights == "torchvision" and self.weights_sha256 is not None:
            raise ValueError("model.weights_sha256 is for a file; torchvision's own weights are checked by their name")
        return self


class OptimizerConfig(Config):
    """Optimizer (R-T2, R-T3)."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="adamw or sgd")
    lr: float = Field(default=5e-4, gt=0, description="first learning rate")
    weight_decay: float = Field(default=1e-4, ge=0, description="decoupled (adamw) or L2 (sgd), on all parameters")
    momentum: float = Field(default=0.9, ge=0, lt=1, description="sgd only")


class ScheduleConfig(Config):
    """Learning rate as a function of the epoch (R-T2, R-T3)."""

    name: Literal["step", "cosine", "warm_restarts", "constant"] = Field(default="step", description="form")
    lr_step_epoch: int = Field(default=80, ge=1, description="step: number of full epochs at the first rate")
    lr_step_factor: float = Field(default=0.5, gt=0, le=1, description="step: factor applied once")
    t_0: int = Field(default=10, ge=1, description="warm_restarts: epochs of the first cycle")
    t_mult: int = Field(default=2, ge=1, description="warm_restarts: growth of the cycle")
    eta_min: float = Field(default=1e-6, ge=0, description="cosine, warm_restarts: lowest rate")
    warmup_epochs: int = Field(default=0, ge=0, description="epochs of linear rise before the form starts")


class BatchConfig(Config):
    """Window of one optimizer step: accumulation micro-batches of micro_batch stamps, over all workers (R-T2, R-T4)."""

    micro_batch: int = Field(default=128, ge=1, description="stamps per forward pass; BatchNorm sees these together")
    accumulation: int = Field(default=16, ge=1, description="micro-batches per optimizer step")
    drop_last: bool = Field(default=False, description="leave out the last, partial window (the original did)")
    evaluation: int = Field(default=256, ge=1, description="stamps per forward pass in validation and scoring")


class LossConfig(Config):
    """Binary cross-entropy on one logit (R-T3)."""

    weighted: bool = Field(default=False, description="weight by the manifest's sample_weight (run B, R-T10)")
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5, description="labels become s/2 and 1 - s/2")
    clip_norm: float = Field(default=0.0, ge=0, description="largest gradient norm; 0 does not clip")


class EarlyStoppingConfig(Config):
    """Stop when nothing improves (R-T3)."""

    patience: int = Field(default=0, ge=0, description="epochs without improvement; 0 never stops")
    min_delta: float = Field(default=0.0, ge=0, description="smallest change that counts")
    monitor: Literal["val_loss", "val_auc"] = Field(default="val_auc", description="what must improve")


class CheckpointsConfig(Config):
    """Which epochs are kept (R-T5)."""

    keep_every: Annotated[int, UNHASHED] = Field(
        default=10, ge=1, description="every n-th epoch is kept, besides best and latest"
    )
    every_steps: Annotated[int, UNHASHED] = Field(
        default=0, ge=0, description="optimizer steps between saves inside an epoch; 0: only its end"
    )
    monitor: Literal["val_auc", "val_loss"] = Field(default="val_auc", description="what makes an epoch the best")


class TrackersConfig(Config):
    """Where curves go besides metrics.jsonl (R-T7)."""

    tensorboard: Annotated[bool, UNHASHED] = Field(default=True, description="write event files into the run folder")
    wandb: Annotated[str | None, UNHASHED] = Field(default=None, description="Weights & Biases project; null: none")
    wandb_mode: Annotated[Literal["online", "offline"], UNHASHED] = Field(
        default="online", description="offline: kept in the run folder"
    )
    mlflow: Annotated[str | None, UNHASHED] = Field(default=None, description="MLflow tracking URI; null: none")
    mlflow_experiment: Annotated[str, UNHASHED] = Field(default="lensdata", description="MLflow experiment")


class HealthConfig(Config):
    """Checks of the curves (R-T9)."""

    fatal: Annotated[bool, UNHASHED] = Field(default=False, description="a FAIL ends the run")


class ExecutionConfig(Config):
    """How a job runs; nothing here changes what it makes."""

    runtime: Literal["ray", "local"] = Field(default="ray", description="Ray Train, or the same loop in this process")
    num_workers: int = Field(default=1, ge=1, description="Ray workers, one device each (R-T1)")
    threads: int = Field(default=0, ge=0, description="CPU threads per worker; 0 takes all cores of the machine")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto takes a GPU where there is one")
    residency: Literal["auto", "device", "host", "stream"] = Field(
        default="auto",
        description="device: stamps stay in its memory; host: in a file mapped to memory; stream: read every epoch (R-T8)",
    )
    cache: str | None = Field(
        default=None,
        description="local folder of the files of residency host; null: a temporary one, removed at the end",
    )
    shard_cache: str | None = Field(
        default=None,
        description="local folder on every node that shards are copied to first, with their checksums; null: read where they are",
    )
    compile: Literal["none", "default", "reduce-overhead", "max-autotune"] = Field(
        default="none", description="mode of torch.compile for the training step"
    )
    max_failures: int = Field(default=3, ge=0, description="restarts by Ray from the last checkpoint (R-T5)")


class TrainingConfig(Config):
    """Everything about one training run. The defaults are Paper IV's ResNet (R-T2)."""

    seed: int = Field(default=42, ge=0, description="initial weights, order, augmentation, dropout")
    epochs: int = Field(default=160, ge=1, description="passes over the training split")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="autocast type (R-T4)")
    data: DataConfig = DataConfig()
    images: ImagesConfig = ImagesConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    batch: BatchConfig = BatchConfig()
    loss: LossConfig = LossConfig()
    early_stopping: EarlyStoppingConfig = EarlyStoppingConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
    trackers: TrackersConfig = TrackersConfig()
    health: HealthConfig = HealthConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @model_validator(mode="after")
    def _stages_are_reached(self) -> TrainingConfig:
        late = [stage.from_epoch for stage in self.images.masking if stage.from_epoch >= self.epochs]
        if late:
            raise ValueError(f"a stage of images.masking begins at epoch {late[0]}, but there are {self.epochs} epochs")
        return self

    @model_validator(mode="after")
    def _workers_have_work(self) -> TrainingConfig:
        # Micro-batches are dealt to the workers whole, so that BatchNorm sees the same batches for any number of them.
        if self.execution.num_workers > self.batch.accumulation:
            raise ValueError(
                f"execution.num_workers {self.execution.num_workers} is more than batch.accumulation "
                f"{self.batch.accumulation}, so some workers would never have a micro-batch"
            )
        return self


class ImportConfig(Config):
    """A user's own stamps and labels, as shards and a manifest (R-C3)."""

    image_key: str = Field(default="images", description="array (n, H, W, bands) in an NPZ of all stamps")
    label_key: str = Field(default="label", description="labels: array in that NPZ, or column of the labels table")
    id_key: str = Field(default="id", description="object names: array or column, optional; for a folder the file stem")
    bands: tuple[str, ...] = Field(default=("g", "r", "z"), min_length=1, description="one name per plane, in order")
    unit: Literal["nanomaggy", "rgb8", "other"] = Field(default="nanomaggy", description="unit of the pixels")
    pixscale_arcsec: float | None = Field(default=None, gt=0, description="pixel size in arcsec; null: unknown")
    default_label: Literal[0, 1] | None = Field(
        default=None, description="label of every stamp where no label is given with the stamps or in a table"
    )
    size: int | None = Field(
        default=None, ge=8, description="side of the centre crop of each stamp, pixels; null: stamps as they are"
    )
    quality: Quality = Field(
        default=Quality(), description="when a stamp in nanomaggies is rejected (R-C4); the others are not measured"
    )
    num_folds: int = Field(default=5, ge=3, le=100, description="seeded folds, each with its share of both classes")
    test_fold: int = Field(default=0, ge=0, description="fold that becomes test; the next one validates")
    seed: int = Field(default=42, ge=0, description="order in the shards and folds")

    @model_validator(mode="after")
    def _test_fold_exists(self) -> ImportConfig:
        if self.test_fold >= self.num_folds:
            raise ValueError(f"test_fold {self.test_fold} is not below num_folds {self.num_folds}")
        return self
