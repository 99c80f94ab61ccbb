"""What a run of detection can be told, beside what every run can."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from densenet_suite.config.augment import AugmentConfig
from densenet_suite.config.schema import (
    Config,
    Count,
    DataConfig,
    ModelConfig,
    Positive,
    Section,
    Share,
    checked,
    one_side_or_two,
)
from densenet_suite.detection.layout import Format
from densenet_suite.detection.variants import detector_spec


class DetectorConfig(ModelConfig):
    """The network."""

    architecture: str  # a row of the family: densenet-suite models list
    in_channels: Literal[1, 3] = 3
    channels: Count | None = None  # of the BiFPN; null for the row's, as below
    cells: Count | None = None
    repeats: Count | None = None
    anchor_scale: Positive | None = None  # side of the smallest anchor in units of its level's stride
    min_level: Annotated[int, Field(ge=2, le=5)] | None = None  # finest level, of stride 2^level; 2 sees small objects
    max_level: Annotated[int, Field(ge=3, le=9)] | None = None  # coarsest level; small images need fewer

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, value: str) -> str:
        return checked(value, detector_spec)

    @property
    def network(self) -> str:
        """The architecture."""
        return self.architecture


class SplitConfig(Section):
    """Where one split is; paths are relative to data.root."""

    annotations: str  # a COCO file, a folder of VOC's XML files or a list of them, YOLO's yaml, or a CSV table
    images: str | None = None  # null: looked for in the usual places


class DetectionDataConfig(DataConfig):
    """The dataset."""

    format: Format | None = None  # coco, voc, yolo, csv or geojson; null: recognised by the names of files and folders
    train: SplitConfig | None = None
    val: SplitConfig | None = None
    test: SplitConfig | None = None
    # of the network's input in pixels, one side or [height, width]; null for the architecture's published size
    size: int | tuple[int, int] | None = None

    @field_validator("size", mode="before")
    @classmethod
    def _one_side_or_two(cls, value: Any) -> Any:
        return one_side_or_two(value, 32)


class DetectionAugmentConfig(AugmentConfig):
    """How much training images change; see AugmentPolicy."""

    scale: tuple[Positive, Positive] = (0.5, 1.6)  # relative to just fitting the network's input


class PostprocessConfig(Section):
    """How detections are chosen in evaluation; see Postprocess."""

    score_threshold: Share = 0.001
    nms: Literal["hard", "soft"] = "hard"
    iou_threshold: Share = 0.5
    sigma: Positive = 0.5
    max_detections: Count = 100
    max_candidates: Count = 5000


class DetectionConfig(Config):
    """A run of detection."""

    task: Literal["detection"]
    model: DetectorConfig
    data: DetectionDataConfig
    augment: DetectionAugmentConfig = DetectionAugmentConfig()
    postprocess: PostprocessConfig = PostprocessConfig()

    @model_validator(mode="after")
    def _batch_norm_has_a_batch(self) -> "DetectionConfig":
        height, width = self.input_size
        coarsest = self.model.max_level or detector_spec(self.model.architecture).max_level
        cells = -(-height // 2**coarsest) * -(-width // 2**coarsest)
        batch = self.train.batch_size
        if cells * min(batch, self.train.recalibrate or batch) == 1:
            raise ValueError(
                f"train.batch {batch} and train.recalibrate {self.train.recalibrate} leave batch norm a "
                f"single value at level {coarsest}, where an image of {height}x{width} has one cell; "
                f"a batch of 2, a larger data.size, or model.max_level: {coarsest - 1}"
            )
        return self

    @model_validator(mode="after")
    def _epochs_for_everything(self) -> "DetectionConfig":
        self.augment.check_epochs(self.train.epochs)
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the network's input."""
        size = self.data.size
        if size is None:
            size = detector_spec(self.model.architecture).size
        return (size, size) if isinstance(size, int) else size
