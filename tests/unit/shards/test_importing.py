"""A user's own stamps become shards and a manifest, or one clear sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from lensdata.errors import InputError
from lensdata.shards import importing, read_manifest, require_classes

Import = Callable[..., str]


def images_and_labels(count: int = 40, size: int = 9) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    return random.integers(0, 255, (count, size, size, 3), dtype=np.uint8), (np.arange(count) % 4 == 0).astype(np.int16)


def test_stamps_and_labels_come_back_by_cutout_id(import_stamps: Import) -> None:
    images, labels = images_and_labels()
    manifest = read_manifest(import_stamps(images, labels, "unit=rgb8", "bands=[R,G,B]"))
    ids = manifest.column("cutout_id")
    np.testing.assert_array_equal(manifest.stamps(), images[ids - 1])
    np.testing.assert_array_equal(manifest.column("label"), labels[ids - 1])
    assert (manifest.layout().unit, manifest.layout().bands) == ("rgb8", ("R", "G", "B"))
    chosen = manifest.take_ids([7, 3])
    np.testing.assert_array_equal(chosen.stamps(), images[[6, 2]])


def test_folds_share_both_classes_and_splits_follow(import_stamps: Import) -> None:
    images, labels = images_and_labels(43)
    manifest = read_manifest(import_stamps(images, labels, "unit=rgb8", "test_fold=4"))
    folds, split = manifest.column("fold"), manifest.column("split")
    for label in (0, 1):
        counts = Counter(folds[manifest.column("label") == label].tolist())
        assert max(counts.values()) - min(counts.values()) <= 1
        assert set(counts) == set(range(5))
    assert set(split[folds == 4]) == {"test"}
    assert set(split[folds == 0]) == {"val"}
    assert set(split[(folds > 0) & (folds < 4)]) == {"train"}


def test_the_manifest_changes_its_identity_with_the_pixels(import_stamps: Import) -> None:
    images, labels = images_and_labels()
    first = json.loads(Path(import_stamps(images, labels, "unit=rgb8"), "_table.json").read_text())["content"]
    images[0, 0, 0, 0] ^= 1
    second = json.loads(Path(import_stamps(images, labels, "unit=rgb8", "--force"), "_table.json").read_text())[
        "content"
    ]
    assert first != second


def test_a_folder_of_fits_and_npz_with_a_table_of_labels(tmp_path: Path) -> None:
    folder = tmp_path / "stamps"
    folder.mkdir()
    stamps = np.random.default_rng(0).normal(size=(12, 11, 11, 3)).astype(np.float32)
    for index, stamp in enumerate(stamps):
        if index % 2:
            np.savez(folder / f"obj{index}.npz", cutout=stamp)
        else:
            fits.writeto(folder / f"obj{index}.fits", np.moveaxis(stamp, -1, 0).astype(">f4"))
    lines = [
        "id,label,ra,dec,tier,remark",
        *(f"obj{i},{i % 2},{i}.5,-2,{'A' if i % 2 else ''},x" for i in reversed(range(12))),
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    code = importing.main(
        [
            "--output",
            str(tmp_path / "out"),
            f"inputs.stamps={folder}",
            f"inputs.labels={tmp_path / 'labels.csv'}",
            "num_folds=3",
        ]
    )
    assert code == 0
    manifest = read_manifest(str(tmp_path / "out" / "manifest"))
    ra = manifest.column("ra")
    np.testing.assert_array_equal(manifest.stamps(), stamps[(ra - 0.5).astype(int)])
    assert set(manifest.table["tier"].to_pylist()) == {"A", None}
    require_classes(manifest, ("train", "val", "test"))


@pytest.mark.parametrize(
    ("images", "labels", "settings", "message"),
    [
        (np.zeros((4, 9, 9), np.uint8), np.zeros(4), (), "has shape (4, 9, 9)"),
        (np.zeros((4, 9, 9, 2), np.uint8), np.zeros(4), (), "expected (n, height, width, 3)"),
        (np.zeros((4, 9, 9, 3), np.int32), np.zeros(4), (), "of type int32 cannot be stored"),
        (np.zeros((4, 9, 9, 3), np.uint8), np.zeros(3), (), "has 3 entries for 4 stamps"),
        (np.zeros((4, 9, 9, 3), np.uint8), np.full(4, 2), (), "Labels must be 0 or 1, found 2"),
        (np.zeros((4, 9, 9, 3), np.uint8), np.zeros(4), ("label_key=ring",), "There are no labels"),
        (np.zeros((4, 9, 9, 3), np.uint8), np.zeros(4), ("image_key=cutouts",), "has no array 'cutouts'"),
        (np.zeros((4, 9, 9, 3), np.uint8), np.zeros(4), ("test_fold=5",), "test_fold 5 is not below num_folds 5"),
    ],
)
def test_wrong_stamps_are_one_sentence_and_exit_code_2(
    import_stamps: Import, capsys: pytest.CaptureFixture[str], images: np.ndarray, labels: np.ndarray,
    settings: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    import_stamps(images, labels, *settings, expect=2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_manifest_without_a_class_is_refused(import_stamps: Import) -> None:
    images, _ = images_and_labels()
    manifest = read_manifest(import_stamps(images, np.zeros(40, np.int8), "unit=rgb8"))
    with pytest.raises(InputError, match="no rows of label 1 in split 'train'"):
        require_classes(manifest, ("train",))


def test_an_unfinished_manifest_is_refused_unless_asked(import_stamps: Import) -> None:
    uri = import_stamps(*images_and_labels(), "unit=rgb8")
    Path(uri, "_SUCCESS").unlink()
    with pytest.raises(InputError, match="no _SUCCESS mark"):
        read_manifest(uri)
    assert len(read_manifest(uri, allow_unfinished=True)) == 40


def test_a_manifest_whose_shard_is_gone_names_it(import_stamps: Import) -> None:
    uri = import_stamps(*images_and_labels(), "unit=rgb8")
    next(Path(uri).parent.glob("shards/dataset/*.parquet")).unlink()
    with pytest.raises(InputError, match=r"names shard .*shard-00000.parquet, which does not exist"):
        read_manifest(uri)


def test_a_test_limit_keeps_every_split_and_class(import_stamps: Import) -> None:
    manifest = read_manifest(import_stamps(*images_and_labels(), "unit=rgb8")).head(16)
    assert len(manifest) == 16
    require_classes(manifest, ("train", "val", "test"))
