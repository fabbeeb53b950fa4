"""What is shown: the list in its order, controls in places that nobody can tell, one order per grader."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lensdata import storage
from lensdata.errors import InputError
from lensdata.shards import ImageLayout
from lensdata.vetting import session as session_module
from lensdata.vetting.items import Request
from lensdata.vetting.listing import read_list
from lensdata.vetting.pictures import GAINS, azimuthal_median, channels, draw
from lensdata.vetting.session import BLOCK, open_session, order_of, read_session, token
from lensdata.vetting.stamps import StampStore
from tests.stamp_folders import LAYOUT, stamp_of
from tests.vetting_folders import FIRST_ID, LENSES, begin, keys_of, write_list, write_manifest


def test_a_list_goes_by_rank_else_by_falling_logit_else_as_it_is(tmp_path):
    ranked = write_list(tmp_path / "a.csv", [1, 2, 3], rank=[3, 1, 2], logit=[9.0, 8.0, 7.0])
    scored = write_list(tmp_path / "b.csv", [1, 2, 3], logit=[0.5, float("nan"), 2.0])
    plain = write_list(tmp_path / "c.csv", [3, 1, 2])

    assert [read_list(name)["cutout_id"].to_pylist() for name in (ranked, scored, plain)] == [
        [2, 3, 1],
        [3, 1, 2],
        [3, 1, 2],
    ]
    assert read_list(ranked, 2)["cutout_id"].to_pylist() == [2, 3]


def test_a_list_may_be_a_parquet_file_with_null_logits(tmp_path):
    pq.write_table(pa.table({"cutout_id": [4, 5, 6], "logit": pa.array([None, 1.0, 2.0])}), tmp_path / "list.parquet")
    assert read_list(str(tmp_path / "list.parquet"))["cutout_id"].to_pylist() == [6, 5, 4]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.csv", "id\n1\n", "has no column 'cutout_id'; it has id"),
        ("a.csv", "cutout_id\n1\n2\n1\n", "lists cutout_id 1 more than once"),
        ("a.csv", "cutout_id,logit\n", "lists no stamps"),
        ("a.csv", "cutout_id,logit\n,1\n3,2\n", "cutout_id is null in 1 rows"),
        ("a.csv", "cutout_id\nx\n", "cutout_id must be whole numbers"),
        ("a.parquet", "PAR0", "neither a table folder nor a readable Parquet"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        read_list(str(tmp_path / name))


def test_controls_are_mixed_in_and_none_of_the_list_is_a_control(tmp_path):
    session = begin(tmp_path, listed=20, lenses=4, random=5)
    control = np.asarray(session.items["control"].to_pylist(), object)
    listed = session.cutout_ids[control == None]  # noqa: E711 - elementwise

    assert listed.tolist() == list(range(FIRST_ID + LENSES, FIRST_ID + LENSES + 20))
    assert (control == "lens").sum() == 4
    assert (control == "random").sum() == 5
    assert set(session.items.filter(pa.array(control == "lens"))["label"].to_pylist()) == {1}
    assert len(keys_of(session)) == 29


def test_the_same_request_makes_the_same_session_and_another_seed_another(tmp_path):
    one, two, three = (begin(_new(tmp_path / name), seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert one.items.equals(two.items)
    assert not one.items.equals(three.items)


def test_a_folder_is_known_by_an_id_of_its_own(tmp_path):
    """A browser would send to one folder what was graded in another that was begun alike."""
    one, two = (begin(_new(tmp_path / name)) for name in "ab")
    assert one.id != two.id
    assert begin(tmp_path / "a").id == one.id


def test_of_two_that_begin_at_once_the_first_ones_session_stands(tmp_path, monkeypatch):
    made, first = session_module.make_items, []

    def slowly(request):
        items = made(request)
        if not first:
            first.append(None)  # the other one begins, and ends, meanwhile
            first[0] = begin(tmp_path).id
        return items

    monkeypatch.setattr(session_module, "make_items", slowly)
    assert begin(tmp_path).id == first[0]


def _new(path):
    path.mkdir()
    return path


def test_every_grader_sees_the_same_stamps_in_an_order_of_their_own(tmp_path):
    session = begin(tmp_path)
    ada, bob = session.order("ada"), session.order("bob")
    assert sorted(ada) == sorted(bob) == list(range(len(session)))
    assert (ada != bob).any()
    assert (read_session(str(session.folder)).order("ada") == ada).all()


def test_who_stops_early_has_seen_the_front_of_the_list():
    keys = np.arange(1000, 1000 + 3 * BLOCK + 7)
    order = order_of(keys, 1, "ada")
    for start in range(0, len(keys), BLOCK):
        assert sorted(order[start : start + BLOCK]) == list(range(start, min(start + BLOCK, len(keys))))


def test_a_session_that_is_not_blind_goes_by_the_list(tmp_path):
    session = begin(tmp_path, blind=False, lenses=0, random=0)
    assert session.cutout_ids[session.order("ada")].tolist() == list(range(FIRST_ID + LENSES, FIRST_ID + LENSES + 20))


def test_a_folder_goes_on_with_its_own_list_only(tmp_path):
    session = begin(tmp_path)
    assert begin(tmp_path).items.equals(session.items)
    with pytest.raises(InputError, match=r"begun with another list; give the same to go on"):
        begin(tmp_path, listed=21)
    with pytest.raises(InputError, match=r"begun with another --controls and --seed"):
        begin(tmp_path, lenses=5, seed=9)


def test_a_manifest_that_moved_is_the_same_manifest(tmp_path):
    session = begin(_new(tmp_path / "a"))
    (tmp_path / "a" / "manifest").rename(tmp_path / "a" / "elsewhere")
    moved = Request(
        listed=str(tmp_path / "a" / "list.csv"),
        manifests=(str(tmp_path / "a" / "elsewhere"),),
        lenses=4,
        random=4,
        seed=3,
    )
    again = open_session(str(session.folder), moved)
    assert (StampStore(again).stamp(0) == stamp_of(int(again.cutout_ids[0]))).all()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (_new(tmp_path / "vetting") / "thesis.tex").touch()
    with pytest.raises(InputError, match="so it is no vetting"):
        begin(tmp_path)


def test_what_is_missing_is_said_with_what_to_do(tmp_path):
    manifest = write_manifest(tmp_path)
    strange = write_list(tmp_path / "l.csv", [FIRST_ID, 7, 8])
    with pytest.raises(
        InputError, match=r"lists cutout_id 7, which is in none of the manifests .* \(2 missing in all\)"
    ):
        open_session(str(tmp_path / "v"), Request(listed=strange, manifests=(manifest,)))
    few = write_list(tmp_path / "f.csv", [FIRST_ID])
    with pytest.raises(InputError, match=r"asks for 99 of lenses, and the manifests have 11"):
        open_session(str(tmp_path / "v"), Request(listed=few, manifests=(manifest,), lenses=99, strict=True))
    storage.remove(f"{manifest}/_SUCCESS")
    with pytest.raises(InputError, match="no _SUCCESS mark"):
        open_session(str(tmp_path / "v"), Request(listed=few, manifests=(manifest,)))
    with pytest.raises(InputError, match=r"holds no session.json"):
        read_session(str(tmp_path))
    with pytest.raises(InputError, match="is on S3"):
        open_session("s3://bucket/vetting", Request(listed=few, manifests=(manifest,)))


def test_stamps_of_another_size_are_not_mixed(tmp_path):
    small = ImageLayout(
        shape=(20, 24, 3), dtype="float32", bands=("g", "r", "z"), unit="nanomaggy", pixscale_arcsec=0.262
    )
    manifests = (write_manifest(_new(tmp_path / "a")), write_manifest(_new(tmp_path / "b"), first=9000, layout=small))
    with pytest.raises(InputError, match="would know where one comes from"):
        open_session(
            str(tmp_path / "v"), Request(listed=write_list(tmp_path / "l.csv", [FIRST_ID]), manifests=manifests)
        )


def test_the_stamps_of_several_manifests_are_found(tmp_path):
    manifests = (write_manifest(_new(tmp_path / "a")), write_manifest(_new(tmp_path / "b"), first=9000))
    listed = write_list(tmp_path / "l.csv", [9001, FIRST_ID + 3])
    session = open_session(str(tmp_path / "v"), Request(listed=listed, manifests=manifests, lenses=3, random=3))
    store = StampStore(session, cache_bytes=0)
    for item, key in enumerate(session.cutout_ids.tolist()):
        assert (store.stamp(item) == stamp_of(key)).all()


def test_the_token_stays_the_same_and_is_the_owners_alone(tmp_path):
    first = token(tmp_path)
    assert token(tmp_path) == first
    assert len(first) >= 32
    assert (tmp_path / ".token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("shape", [(24, 24, 3), (9, 12, 1), (7, 7, 2)])
def test_the_ring_medians_are_those_of_the_normalisation(shape):
    torch = pytest.importorskip("torch")
    from ray_train.core import images

    planes = np.random.default_rng(0).normal(size=shape)
    theirs = images.azimuthal_median(torch.from_numpy(planes.transpose(2, 0, 1))[None])[0].numpy().transpose(1, 2, 0)
    np.testing.assert_allclose(azimuthal_median(planes), theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("bands", "unit", "dtype"),
    [
        ("grz", "nanomaggy", "float32"), ("grz", "rgb8", "uint8"), ("g", "nanomaggy", "float16"), ("uv", "count", "float32"),
        ("griz", "nanomaggy", "float32"), ("x", "rgb8", "uint8"),
    ],
)  # fmt: skip
def test_stamps_of_any_bands_and_unit_have_pictures(bands, unit, dtype):
    layout = ImageLayout(shape=(9, 11, len(bands)), dtype=dtype, bands=tuple(bands), unit=unit)
    stamp = (
        np.full(layout.shape, 100, dtype)
        if dtype == "uint8"
        else stamp_of(1)[:9, :11, :1].repeat(len(bands), 2).astype(dtype)
    )
    for channel in channels(layout):
        for stretch in GAINS:
            for residual in (False, True):
                assert draw(stamp, layout, channel, stretch, residual=residual).startswith(b"\x89PNG")


def test_a_stretch_for_faint_light_is_brighter_and_one_for_bright_light_darker():
    stamp = stamp_of(5)
    sizes = {}
    for name in GAINS:
        sizes[name] = np.asarray(Image.open(BytesIO(draw(stamp, LAYOUT, "r", name, residual=False)))).mean()
    assert sizes["faint"] > sizes["normal"] > sizes["bright"]
